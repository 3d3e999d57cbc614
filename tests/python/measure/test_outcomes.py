"""Outcomes, the side effect and the scores of answers: against plain Hugging Face, NumPy and SciPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
import torch
from cna.arms import Arm
from cna.measure.answer_scores import add_likelihoods
from cna.measure.kinds import KINDS, with_kinds
from cna.measure.outcomes import BROKEN_BELOW, distinct_pairs
from cna.measure.random_draws import matched_multipliers
from cna.metrics import choose, compare, controls, holm, outcome_of, rate_by_length, token_quality
from cna.steering import SteeringVector
from cna.tasks import Task
from conftest import PROMPTS, hf_generate
from reference import FEW, log_probabilities, scaled_neurons
from scipy import stats

EVALUATION = [f"Please do number {i}." for i in range(5)]
BENIGN = [f"Say {word}." for word in ("one", "two", "three")]


# --- outcomes -------------------------------------------------------------------------------------


def test_token_quality_counts_four_grams_of_tokens() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 3, 4, 5, 40):
        tokens = rng.integers(0, 3, n).tolist()
        grams = [tuple(tokens[i : i + 4]) for i in range(n - 3)]
        expected = len(set(grams)) / len(grams) if grams else 1.0
        assert token_quality(tokens) == pytest.approx(expected)


def test_empty_broken_and_non_finite_answers_are_never_a_success() -> None:
    fine = list(range(40))
    assert outcome_of("I can do it.", fine, False) == "other"
    assert outcome_of("I cannot.", fine, True) == "behaviour"
    for text, tokens, finite in (
        ("", [], True),
        (" \n", [0] * 40, True),  # what an overflow used to leave
        ("no-no-no", [5, 6] * 20, True),
        ("fine words", fine, False),
    ):
        for judged in (False, True):
            assert outcome_of(text, tokens, judged, finite) == "broken"


def test_words_miss_the_repeats_that_tokens_show(tiny: cna.Model) -> None:
    text = "I'm not just a handy C-C-C-C-C-C-C-C-C-C-C-C-C-C-C-C-C-C"
    tokens = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert cna._core.four_gram_quality(text) == 1.0
    assert outcome_of(text, tokens, False) == "broken"


# --- kinds ----------------------------------------------------------------------------------------


def test_a_vector_of_a_users_own_name_stands_on_the_axis_of_coefficients(
    tiny: cna.Model, task: Task, circuit: cna.Circuit
) -> None:
    vector = SteeringVector({1: torch.ones(tiny.hidden_size)}, name="refusal-direction")
    arms = cna.arms.vector_arms(vector, [-0.5, 1.0])
    assert [(a.kind, a.neutral) for a in arms] == [("vector", 0.0)] * 2
    assert all(math.isnan(a.alpha) for a in arms)
    few = {"kl_prompts": 0, "perplexity": False, "relevance_prompts": 0, "quiz_questions": 0}
    result = cna.sweep(
        tiny, circuit, task, [0.0], [], arms=arms, max_new_tokens=4, progress=False, **few
    )
    mine = result.table[result.table.method == "refusal-direction"]
    assert set(mine.kind) == {"vector"} and mine.alpha.isna().all()
    fig = cna.plots.dose_response(result.table)
    across = {ax.get_xlabel(): ax for ax in fig.axes}
    (axis,) = [ax for label, ax in across.items() if "coefficient" in label]
    assert "refusal-direction, layer 1" in [x.get_label() for x in axis.get_lines()]
    # The row at c = 1 is steered: only the model's own row is shaded as unsteered.
    plain = cna.measure.kinds.is_unsteered(with_kinds(result.table))
    assert list(result.table.method[plain]) == ["cna"]
    contrast = cna.arms.vector_arms(cna.caa(tiny, PROMPTS[:4], PROMPTS[4:], layers=[1]), [-0.5])
    assert [a.alpha for a in contrast] == [-0.5]


def test_an_older_table_is_read_by_the_names_that_cna_gave() -> None:
    old = pd.DataFrame(
        {
            "method": ["cna", "cna", "random-0", "random-1", "random", "caa", "mine", "caa-mlp"],
            "strength": [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0],
            "kl": 0.5,
        }
    )
    new = with_kinds(old)
    kinds = ["circuit", "circuit", *["random"] * 3, "vector", "circuit", "vector"]
    assert list(new.kind) == kinds and "kl" not in new and set(new.kl_evaluation) == {0.5}
    assert list(new.neutral) == [KINDS[k].neutral for k in kinds]
    assert set(new.method[new.kind == "random"]) == {"random"}
    assert list(new.draw[2:4]) == [0, 1]
    unsteered = cna.measure.kinds.is_unsteered(new)
    assert list(unsteered) == [True, False, False, False, True, False, True, True]
    with pytest.raises(ValueError, match="Arm: expected a kind of"):
        Arm("x", None, 1.0, cna.Intervention(1), kind="magic")


# --- scores ---------------------------------------------------------------------------------------


def likelihood(hf: Any, prompt: list[int], rest: list[int]) -> float:
    return float(log_probabilities(hf, prompt, rest).gather(1, torch.tensor(rest)[:, None]).sum())


def test_perplexity_and_relevance_of_answers_are_hugging_faces(
    tiny: cna.Model, tiny_hf: Any, task: Task, circuit: cna.Circuit
) -> None:
    result = cna.sweep(
        tiny,
        circuit,
        task,
        [0.0],
        [],
        max_new_tokens=6,
        kl_prompts=2,
        perplexity=False,
        quiz_questions=0,
        progress=False,
    )
    ids = tiny.tokenize(EVALUATION)
    for strength in (1.0, 0.0):
        with tiny.steer(circuit, strength):
            said = tiny.generate(EVALUATION, max_new_tokens=6, return_tokens=True, progress=False)
        own = [likelihood(tiny_hf, p, t) for p, t in zip(ids, said, strict=True)]
        away = [likelihood(tiny_hf, p, t) for p, t in zip(ids[1:] + ids[:1], said, strict=True)]
        lengths = np.array([len(t) for t in said])
        row = result.table[(result.table.method == "cna") & (result.table.strength == strength)]
        (row,) = row.to_dict("records")
        assert row["answer_perplexity"] == pytest.approx(
            math.exp(-sum(own) / lengths.sum()), rel=1e-4
        )
        relevance = (np.array(own) - np.array(away)) / lengths
        assert row["relevance"] == pytest.approx(relevance.mean(), abs=1e-4)
        assert row["relevance_low"] <= row["relevance"] <= row["relevance_high"]
        assert row["cut"] == pytest.approx(np.mean(lengths == 6)) and row["empty"] == 0


def test_relevance_shows_answers_that_were_swapped(tiny: cna.Model) -> None:
    """Each prompt's own greedy answer is likelier than the same given another prompt."""
    ids = tiny.tokenize(EVALUATION)
    own = tiny.generate(EVALUATION, max_new_tokens=8, return_tokens=True, progress=False)
    swapped = own[-1:] + own[:-1]  # the answer to the prompt before
    frames = [
        pd.DataFrame({"set": "evaluation", "index": range(5), "kind": "circuit", "tokens": tokens})
        for tokens in (own, swapped)
    ]
    right, wrong = (
        add_likelihoods(tiny, f, {"evaluation": ids}, progress=False).relevance.mean()
        for f in frames
    )
    assert right > 0 > wrong - right


def test_benign_kl_is_hugging_faces_over_all_benign_prompts(
    tiny: cna.Model, tiny_hf: Any, task: Task, circuit: cna.Circuit
) -> None:
    result = cna.sweep(
        tiny, circuit, task, [0.0], ["prompt"], prompt_baseline="Answer in French.", **FEW
    )
    told = tiny.tokenize([f"Answer in French.\n\n{p}" for p in BENIGN])
    expected: dict[str, list[float]] = {"cna": [], "prompt": []}
    for ids, longer in zip(tiny.tokenize(BENIGN), told, strict=True):
        answer = hf_generate(tiny_hf, ids, 5)
        base = log_probabilities(tiny_hf, ids, answer)
        with scaled_neurons(tiny_hf, circuit, 0.0):
            steered = log_probabilities(tiny_hf, ids, answer)
        asked = log_probabilities(tiny_hf, longer, answer)
        for name, other in (("cna", steered), ("prompt", asked)):
            expected[name].append(float((base.exp() * (base - other)).sum(-1).mean()))
    table = result.table[result.table.kind != "model"].set_index("method")
    for name, values in expected.items():
        assert table.kl_benign[name] == pytest.approx(np.mean(values), abs=1e-4)
        assert table.kl_benign_low[name] <= table.kl_benign[name] <= table.kl_benign_high[name]
        rows = result.answers[(result.answers.method == name) & (result.answers.kind != "model")]
        rows = rows[rows.set == "benign"].sort_values("index")
        assert list(rows.answer_kl) == pytest.approx(values, abs=1e-4)
    asked_answers = result.answers[(result.answers.method == "prompt")]
    asked_answers = asked_answers[asked_answers.set == "benign"].sort_values("index")
    assert list(asked_answers.answer) == [tiny.decode(hf_generate(tiny_hf, ids, 5)) for ids in told]


def test_the_rate_at_a_length_is_that_of_answers_of_that_length(
    tiny: cna.Model, task: Task
) -> None:
    table = rate_by_length(tiny, task, (9, 3), progress=False).set_index("max_new_tokens")
    assert list(table.index) == [3, 9]
    for length in (3, 9):
        tokens = tiny.generate(
            EVALUATION, max_new_tokens=length, return_tokens=True, progress=False
        )
        texts = [tiny.decode(t) for t in tokens]
        judged = task.judge.judge_all(texts, EVALUATION)
        found = [outcome_of(*x) for x in zip(texts, tokens, judged, strict=True)]
        assert table.rate[length] == found.count("behaviour") / 5
        assert table.broken[length] == found.count("broken") / 5
        assert table.cut[length] == np.mean([len(t) == length for t in tokens])


# --- comparisons ----------------------------------------------------------------------------------


def made_answers() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for method, kind, layer, strength, draw, p in (
        ("cna", "model", None, 1.0, None, (0.7, 0.3, 0.0)),
        ("cna", "circuit", None, 0.0, None, (0.2, 0.7, 0.1)),
        ("cna", "circuit", None, 0.5, None, (0.5, 0.5, 0.0)),
        ("caa", "vector", 3, -0.5, None, (0.1, 0.4, 0.5)),
        ("caa", "vector", 4, -0.5, None, (0.3, 0.7, 0.0)),
        *(("random", "random", None, 0.0, d, (0.7, 0.3, 0.0)) for d in range(20)),
    ):
        for name, n in (("evaluation", 40), ("benign", 12)):
            if kind == "random" and name == "benign":
                continue
            for i in range(n if kind != "random" else 16):
                rows.append(
                    {"method": method, "kind": kind, "layer": layer, "strength": strength}
                    | {"draw": draw, "set": name, "index": i}
                    | {"outcome": rng.choice(["behaviour", "other", "broken"], p=p)}
                    | {"answer_kl": {"cna": 0.05, "caa": 0.02 * (layer or 0)}.get(method, 0.01)}
                )
    return pd.DataFrame(rows)


def test_holm_is_the_step_down_correction() -> None:
    p = [0.01, 0.04, 0.03, math.nan, 0.005]
    assert holm(p)[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm(p)[3]) and holm(p)[4] == pytest.approx(0.02)
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    scipy = stats.false_discovery_control  # another correction: Holm is never smaller
    rng = np.random.default_rng(1)
    values = rng.random(12) ** 3
    assert (np.array(holm(list(values))) >= scipy(values) - 1e-12).all()


def test_compare_tests_each_arm_against_the_model_prompt_by_prompt() -> None:
    answers = made_answers()
    table = compare(answers)
    assert len(table) == 4 and "random" not in set(table.method)
    frame = answers[answers.set == "evaluation"]
    base = frame[frame.kind == "model"].set_index("index").outcome == "behaviour"
    for row in table.itertuples():
        same = (frame.method == row.method) & (frame.strength == row.strength)
        same &= frame.layer.isna() if math.isnan(row.layer) else frame.layer == row.layer
        mine = frame[same & (frame.kind != "model")].set_index("index").outcome == "behaviour"
        gained, lost = int((mine & ~base).sum()), int((base & ~mine).sum())
        assert (row.gained, row.lost, row.n) == (gained, lost, 40)
        assert row.p_value == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert list(table.p_holm) == pytest.approx(holm(list(table.p_value)))
    other = compare(answers, ("caa", 4, -0.5), "other")
    assert set(other.against) == {"caa layer 4 -0.5"} and len(other) == 4
    with pytest.raises(ValueError, match="compare: expected one arm"):
        compare(answers, "caa")
    with pytest.raises(ValueError, match="compare: expected an arm of the sweep"):
        compare(answers, ("caa", 9, -0.5))


def test_controls_give_the_draws_range_and_an_empirical_p() -> None:
    answers = made_answers()
    table = answers.drop_duplicates(["method", "kind", "layer", "strength", "draw"])
    table = table.assign(kl_benign=0.03)
    (row,) = controls(table, answers).to_dict("records")
    frame = answers[answers.set == "evaluation"]
    draws = frame[frame.kind == "random"]
    rates = (draws.outcome == "behaviour").groupby(draws.draw).mean()
    mine = frame[(frame.method == "cna") & (frame.strength == 0) & (frame["index"] < 16)]
    rate = (mine.outcome == "behaviour").mean()
    assert (row["draws"], row["n"]) == (20, 16)
    assert row["rate"] == pytest.approx(rate) and row["median"] == pytest.approx(rates.median())
    assert (row["lowest"], row["highest"]) == (rates.min(), rates.max())
    assert row["p_empirical"] == pytest.approx((1 + (rates <= rate).sum()) / 21)


def test_settings_are_chosen_on_one_half_and_shown_on_the_other() -> None:
    answers = made_answers()
    table = choose(answers, max_kl=0.1).set_index("method")
    assert set(table.index) == {"cna", "caa"}
    for method, row in table.iterrows():
        mine = answers[(answers.method == method) & ~answers.kind.isin(["model", "random"])]
        even = mine[(mine["index"] % 2 == 0) & (mine.set == "evaluation")]
        shares = (even.outcome == "other").groupby([even.layer, even.strength], dropna=False).mean()
        assert row.chosen_other == pytest.approx(shares.max())
        odd = mine[(mine["index"] % 2 == 1) & (mine.strength == row.strength)]
        odd = odd[odd.layer.isna() if pd.isna(row.layer) else odd.layer == row.layer]
        shown = odd[odd.set == "evaluation"].outcome
        assert row.rate == pytest.approx((shown == "behaviour").mean()) and row.n == 20
        assert row.kl_benign == pytest.approx(odd[odd.set == "benign"].answer_kl.mean())
    # What is shown does not depend on the half that is chosen on, and the other way round.
    moved = answers.copy()
    odd = (moved["index"] % 2 == 1) & (moved.set == "evaluation")
    moved.loc[odd, "outcome"] = "broken"
    again = choose(moved, max_kl=0.1).set_index("method")
    assert (again[["layer", "strength", "chosen_other"]]).equals(
        table[["layer", "strength", "chosen_other"]]
    )
    assert set(again.broken) == {1.0}
    tight = choose(answers, max_kl=0.001)
    assert not tight.within.any() and set(tight.layer.dropna()) == {3.0}


# --- random draws of equal disturbance ------------------------------------------------------------


def test_matched_multipliers_reach_the_target() -> None:
    scale = np.array([0.5, 0.02, 1e-4, 0.0])  # the last one is never active

    asked: list[int] = []

    def kl_of(which: Any, multipliers: Any) -> list[float]:
        asked.append(len(which))
        size = np.abs(1 - np.array(multipliers))
        return list(scale[which] * size**1.7)

    found = matched_multipliers(kl_of, 4, 0.05, 1.0)
    assert asked[0] == 4 and asked[-1] == 1  # draws that are near are not run again
    reached = np.array(kl_of([0, 1, 2, 3], found))
    assert reached[:3] == pytest.approx(0.05, rel=0.1)
    assert found[3] == 1.0 - 64.0  # as far as it goes
    assert all(m < 1 for m in found)
    assert all(m > 1 for m in matched_multipliers(kl_of, 4, 0.05, -1.0))
    assert matched_multipliers(kl_of, 4, 0.0, 1.0) == [0.0] * 4


def test_matched_draws_disturb_benign_prompts_as_the_circuit_does(
    tiny: cna.Model, task: Task, circuit: cna.Circuit
) -> None:
    result = cna.sweep(
        tiny,
        circuit,
        task,
        [0.0],
        ["random", "random-kl"],
        random_seeds=range(4),
        random_prompts=2,
        **FEW | {"max_new_tokens": 6},
    )
    table = result.table
    ablated = table[(table.kind == "circuit")].iloc[0].kl_benign
    matched = table[table.method == "random-kl"]
    assert list(matched.draw) == [0, 1, 2, 3] and set(matched.kind) == {"random"}
    assert list(matched.kl_benign) == pytest.approx([ablated] * 4, rel=0.15)
    plain = table[table.method == "random"]
    assert set(plain.strength) == {0.0} and set(plain.n) == {2}
    assert list(result.controls().control) == ["random", "random-kl"]
    with pytest.raises(ValueError, match="expected benign prompts to match random neurons by"):
        empty = Task("toy", "toy", PROMPTS[:4], PROMPTS[4:], EVALUATION, [], task.judge)
        cna.sweep(tiny, circuit, empty, [0.0], ["random-kl"], progress=False)
    with pytest.raises(ValueError, match="expected an instruction that asks for the effect"):
        cna.sweep(tiny, circuit, task, [0.0], ["prompt"], progress=False)


# --- the threshold of broken text, on labels ------------------------------------------------------


DATA = Path(cna.__file__).parent / "prompts/data"
LABELS = [p for p in sorted(DATA.glob("labelled_*.jsonl")) if '"broken":' in p.read_text("utf-8")]


def labelled(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True, dtype={"answer": str})


def auroc(broken: pd.Series, quality: list[float]) -> float:
    """How often a broken answer has the lower quality; ties count half."""
    ranks = stats.rankdata([-q for q in quality])
    n, m = int(broken.sum()), int((~broken).sum())
    return float((ranks[broken.to_numpy()].sum() - n * (n + 1) / 2) / (n * m))


def precision_recall(frame: pd.DataFrame, threshold: float) -> tuple[float, float]:
    found = np.array([distinct_pairs(t) < threshold for t in frame.tokens])
    found |= np.array([not a.strip() for a in frame.answer])
    right = (found & frame.broken).sum()
    return right / found.sum(), right / frame.broken.sum()


def test_the_threshold_is_the_best_one_on_answers_to_discovery_prompts() -> None:
    frame = labelled(DATA / "labelled_discovery.jsonl")
    thresholds = np.arange(0.4, 0.96, 0.05)
    scores = [2 / (1 / p + 1 / r) for p, r in (precision_recall(frame, t) for t in thresholds)]
    assert thresholds[int(np.argmax(scores))] == pytest.approx(BROKEN_BELOW)


@pytest.mark.parametrize("path", LABELS, ids=lambda path: path.stem)
def test_broken_text_is_found_on_labels(path: Path) -> None:
    frame = labelled(path)
    tokens = auroc(frame.broken, [distinct_pairs(t) for t in frame.tokens])
    by_word = auroc(frame.broken, [cna._core.four_gram_quality(a) for a in frame.answer])
    assert tokens >= 0.96 and by_word <= tokens - 0.05
    precision, recall = precision_recall(frame, BROKEN_BELOW)
    # Of 40 tokens of poor Spanish a reader calls more broken than repeated pairs tell.
    least = 0.75 if path.stem == "labelled_language" else 0.8
    assert precision >= 0.8 and recall >= least
    page = (Path(__file__).parents[3] / "docs/evaluation.md").read_text("utf-8")
    name = path.stem.removeprefix("labelled_").replace("_", " ")
    row = f"| {len(frame)}, {name} | {frame.broken.sum()} | {by_word:.2f} | {tokens:.2f} | "
    assert f"{row}{precision:.2f} | {recall:.2f} |" in page
