"""Sweeps measure what they say: KL and perplexity against Hugging Face, CAA against NumPy."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
import torch

# The package's attribute of this name is the function.
from cna.arms import build_arms, neuron_arms, size_arms
from cna.metrics import fixed_text, mean_interval, quiz_accuracy
from cna.prompts import Question
from cna.steering import caa, caa_mlp, mean_difference, random_like
from cna.sweep import sweep
from cna.tasks import Task
from conftest import PROMPTS, down_projections, make_hf, make_tokenizer
from reference import FEW, log_probabilities, scaled_neurons

EVALUATION = [f"Please do number {i}." for i in range(6)]
BENIGN = [f"Say {word}." for word in ("one", "two", "three")]


def test_kl_and_likelihood_equal_hugging_face(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit
) -> None:
    prompts = tiny.tokenize(PROMPTS)
    rest = [[(7 * i + j) % 250 for j in range(3 + i)] for i in range(len(prompts))]
    arms = cna.Intervention.concat(
        [cna.Intervention(1), cna.Intervention.scale(circuit, [0.0, -1.0])]
    )
    kl, likelihood = tiny.core.divergence(prompts, rest, intervention=arms)
    for row, m in enumerate([1.0, 0.0, -1.0]):
        for i, (prompt, answer) in enumerate(zip(prompts, rest, strict=True)):
            base = log_probabilities(tiny_hf, prompt, answer)
            with scaled_neurons(tiny_hf, circuit, m):
                steered = log_probabilities(tiny_hf, prompt, answer)
            expected = (base.exp() * (base - steered)).sum(-1).mean()
            assert kl[row, i] == pytest.approx(float(expected), abs=1e-4)
            tokens = torch.tensor(answer)[:, None]
            assert likelihood[row, i] == pytest.approx(
                float(steered.gather(1, tokens).sum()), rel=1e-4, abs=1e-3
            )
    scores = tiny.core.log_likelihood(prompts, rest)
    assert torch.allclose(scores, likelihood[0], rtol=1e-5, atol=1e-3)


def test_perplexity_of_the_fixed_text_equals_hugging_face(tiny: cna.Model, tiny_hf: Any) -> None:
    text = (Path(cna.__file__).parent / "prompts/data/fixed_text.txt").read_text()
    total, tokens = 0.0, 0
    for paragraph in text.split("\n\n"):
        ids = tiny.tokenize([paragraph.strip()], chat=False)[0][:256]
        rows = log_probabilities(tiny_hf, ids[:1], ids[1:])
        total -= float(rows.gather(1, torch.tensor(ids[1:])[:, None]).sum())
        tokens += len(ids) - 1
    assert fixed_text(tiny, cna.Intervention(1))[0] == pytest.approx(
        math.exp(total / tokens), rel=1e-3
    )


def test_the_quiz_ranks_choices_by_mean_log_probability(tiny: cna.Model, tiny_hf: Any) -> None:
    quiz = [Question(f"What is {i}?", ("alpha", "be", "gamma ray", "d"), i % 4) for i in range(6)]
    expected = []
    for q in quiz:
        prompt = tiny.tokenize([f"Question: {q.question}\nAnswer:"], chat=False)[0]
        scores = []
        for choice in q.choices:
            ids = tiny.tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]
            rows = log_probabilities(tiny_hf, prompt, ids)
            scores.append(float(rows.gather(1, torch.tensor(ids)[:, None]).mean()))
        expected.append(int(np.argmax(scores)) == q.answer)
    assert quiz_accuracy(tiny, None, quiz)[0].tolist() == expected


def test_caa_is_the_mean_difference_of_hidden_states(tiny: cna.Model, tiny_hf: Any) -> None:
    def states(prompts: list[str]) -> np.ndarray:
        out = []
        for ids in tiny.tokenize(prompts):
            with torch.inference_mode():
                hidden = tiny_hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
            out.append(np.stack([h[0, -1].double().numpy() for h in hidden[1:-1]]))
        return np.stack(out)

    expected = states(PROMPTS[:4]).mean(0) - states(PROMPTS[4:]).mean(0)
    vectors = caa(tiny, PROMPTS[:4], PROMPTS[4:]).vectors
    for layer in range(3):
        a, b = vectors[layer].double().numpy(), expected[layer]
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.9999
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def test_the_authors_variant_uses_every_mlp_output(tiny: cna.Model, tiny_hf: Any) -> None:
    outputs: list[list[np.ndarray]] = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: outputs[-1].append(out[0, -1].double().numpy()))
        for m in down_projections(tiny_hf)
    ]
    for ids in tiny.tokenize(PROMPTS):
        outputs.append([])
        with torch.inference_mode():
            tiny_hf(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    rows = np.array(outputs)
    expected = rows[:4].mean(0) - rows[4:].mean(0)
    got = mean_difference(tiny, PROMPTS[:4], PROMPTS[4:], site="mlp_output").numpy()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    vector = caa_mlp(tiny, PROMPTS[:4], PROMPTS[4:])
    assert vector.name == "caa-mlp" and sorted(vector.vectors) == [0, 1, 2, 3]


def test_random_neurons_match_the_circuit_layer_by_layer(circuit: cna.Circuit) -> None:
    one, two = random_like(circuit, 1), random_like(circuit, 2)
    assert one.layer_counts == circuit.layer_counts == two.layer_counts
    assert len(one & circuit) == 0 and one.neurons != two.neurons
    assert random_like(circuit, 1).neurons == one.neurons


def test_without_the_filter_all_else_stays(tiny: cna.Model, task: Task) -> None:
    """The baseline's neurons are those of the circuit's own ranking, penalty, side and layers."""
    how: dict[str, Any] = {"k": 9, "ranking": "contribution", "penalty": 0.02, "layers": (1, 2)}
    sides = task.positive, task.negative
    found = cna.discover(tiny, *sides, **how, progress=False)
    options = cna.SweepOptions(multipliers=[0.0], baselines=["no-filter"])
    arms = build_arms(tiny, found, task, options, progress=False)
    expected = cna.discover(tiny, *sides, **how, universal=None, progress=False)
    (arm,) = [a for a in arms if a.method == "no-filter"]
    assert arm.intervention.digest == cna.Intervention.ablate(expected).digest
    default = cna.discover(
        tiny, *sides, k=9, ranking="contribution", universal=None, progress=False
    )
    assert default.neurons != expected.neurons  # or nothing would be told
    given = cna.discover(
        tiny,
        *sides,
        k=9,
        ranking="direction",
        direction=torch.ones(tiny.hidden_size),
        progress=False,
    )
    with pytest.raises(ValueError, match=r"^sweep: expected a circuit that can be found again"):
        build_arms(tiny, given, task, options, progress=False)


def test_a_sweep_gives_one_row_per_arm(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    result = sweep(
        tiny,
        circuit,
        task,
        [0.0, 2.0],
        ["random", "caa", "caa-mlp", "no-filter", "prompt"],
        caa_layers=[1, 2],
        caa_coefficients=[-1.0],
        prompt_baseline="Answer with one word.",
        random_seeds=range(3),
        random_prompts=4,
        max_new_tokens=6,
        kl_prompts=3,
        quiz_questions=4,
        out=tmp_path / "run",
        progress=False,
    )
    table = result.table
    counts = table.method.value_counts().to_dict()
    assert counts == {"cna": 3, "random": 3, "no-filter": 2, "caa": 2, "caa-mlp": 1, "prompt": 1}
    draws = table.kind == "random"
    assert set(table.n[~draws]) == {6} and set(table.benign_n[~draws]) == {3}
    assert set(table.n[draws]) == {4} and set(table.benign_n[draws]) == {0}
    assert list(table.draw[draws]) == [0, 1, 2] and set(table.strength[draws]) == {0.0}
    base = table[(table.method == "cna") & (table.strength == 1)].iloc[0]
    assert base.kl_benign == base.kl_evaluation == 0 and base.p_value == 1 and base.alpha == 0
    assert base.kind == "model"
    assert (table[table.method == "cna"].alpha == 1 - table[table.method == "cna"].strength).all()
    assert (table.rate_low <= table.rate).all() and (table.rate <= table.rate_high).all()
    assert (0 <= table.quality_low).all() and (table.quality_low <= table.quality).all()
    assert (table.quality <= table.quality_high).all() and (table.quality_high <= 1).all()
    for column in ("kl_benign", "kl_evaluation"):
        assert (table[column][~draws] >= -1e-6).all()
    assert (table.kl_benign_low <= table.kl_benign).all()
    assert (table.kl_benign <= table.kl_benign_high).all()
    read = ~draws & (table.kind != "prompt")  # by them no raw text is read
    assert np.isfinite(table.perplexity[read]).all() and table.perplexity[~read].isna().all()
    assert table.accuracy[~read].isna().all() and table.accuracy[read].notna().all()
    assert (table[["rate", "other", "broken"]].sum(axis=1) - 1).abs().max() < 1e-9
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"circuit.json", "table.csv", "answers.csv", "run.json", "report.html"} <= names
    assert (tmp_path / "run/figures/dose_response.png").stat().st_size > 5000
    assert len(pd.read_csv(tmp_path / "run/table.csv")) == len(table)


def test_a_run_keeps_the_layers_of_its_task_by_each_ranking(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    result = sweep(tiny, circuit, task, [], [], out=tmp_path / "run", **FEW)
    want = cna.analysis.layers_by_ranking(
        tiny, task.positive, task.negative, k=len(circuit), universal=None, progress=False
    )
    assert result.layers is not None and result.layers.equals(want.table)
    assert result.layers["delta_count"].tolist() == list(circuit.layer_counts)
    kept = pd.read_csv(tmp_path / "run/layers.csv")
    pd.testing.assert_frame_equal(kept, result.layers)
    assert (tmp_path / "run/figures/layers_by_ranking.png").stat().st_size > 5000
    assert "by contribution" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "layers_missing" not in result.settings
    without = sweep(tiny, circuit, task, [], [], layers=False, out=tmp_path / "other", **FEW)
    assert without.layers is None and not (tmp_path / "other/layers.csv").exists()


def test_a_sweep_goes_on_where_layers_cannot_be_found(
    circuit: cna.Circuit, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cna.hosts.live.readout_of", lambda *_: None)
    model = cna.live(make_hf(), make_tokenizer(), model_id="blind")
    result = sweep(model, circuit, task, [], [], out=tmp_path, **FEW)
    assert result.layers is not None and result.layers["contribution_count"].isna().all()
    said = json.loads((tmp_path / "run.json").read_text())["layers_missing"]
    assert "knows its write vectors, got 'blind'" in said and "\n" not in said
    assert "No contributions: contribution: expected" in (tmp_path / "report.html").read_text()
    same = dataclasses.replace(task, negative=task.positive)
    result = sweep(model, circuit, same, [], [], **FEW)
    assert result.layers is None and "two sets" in result.settings["layers_missing"]
    empty = cna.Circuit(circuit.shape, [])
    assert sweep(model, empty, task, [], [], **FEW).layers is None


def test_sweep_answers_equal_one_run_per_strength(
    tiny: cna.Model, circuit: cna.Circuit, task: Task
) -> None:
    result = sweep(
        tiny,
        circuit,
        task,
        [0.0, -1.0],
        [],
        max_new_tokens=6,
        kl_prompts=0,
        perplexity=False,
        quiz_questions=0,
        progress=False,
    )
    for m in (0.0, -1.0, 1.0):
        with tiny.steer(circuit, m):
            expected = tiny.generate(EVALUATION, max_new_tokens=6)
        rows = result.answers
        rows = rows[(rows.strength == m) & (rows.set == "evaluation")].sort_values("index")
        assert list(rows.answer) == expected
        assert list(rows.judged) == [len(a) % 2 == 0 for a in expected]
        assert list(rows.hit) == list(rows.judged & (rows.outcome != "broken"))


def test_a_cut_answer_file_goes_on_where_it_stopped(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "max_new_tokens": 5,
        "kl_prompts": 0,
        "perplexity": False,
        "quiz_questions": 0,
        "progress": False,
        "batch_size": 4,
    }
    options["random_seeds"] = [0]
    whole = sweep(tiny, circuit, task, [0.0], ["random"], out=tmp_path / "a", **options)
    raw = (tmp_path / "a/answers.jsonl").read_bytes()
    for cut in (0, 10, len(raw) // 3, len(raw) - 5, len(raw)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "answers.jsonl").write_bytes(raw[:cut])
        again = sweep(tiny, circuit, task, [0.0], ["random"], out=folder, **options)
        pd.testing.assert_frame_equal(again.table, whole.table)
        lines = (folder / "answers.jsonl").read_text().splitlines()
        assert all(json.loads(line) for line in lines) and len(lines) == 1 + 2 * 9 + 6


def test_a_folder_of_another_run_is_refused(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"kl_prompts": 0, "perplexity": False, "quiz_questions": 0}
    sweep(tiny, circuit, task, [0.0], [], max_new_tokens=3, out=tmp_path, **options)
    with pytest.raises(ValueError, match="belong to this run"):
        sweep(tiny, circuit, task, [0.0], [], max_new_tokens=4, out=tmp_path, **options)


def test_unknown_baselines_and_strengths_are_refused(
    tiny: cna.Model, circuit: cna.Circuit, task: Task
) -> None:
    with pytest.raises(ValueError, match="expected baselines among"):
        sweep(tiny, circuit, task, [0.0], ["magic"])
    with pytest.raises(ValueError, match="finite multipliers"):
        sweep(tiny, circuit, task, [float("nan")], [])
    with pytest.raises(ValueError, match="each arm once"):
        sweep(tiny, circuit, task, [0.0], [], arms=neuron_arms("cna", circuit, [0.0]))


def test_options_are_what_their_keywords_are(
    tiny: cna.Model, circuit: cna.Circuit, task: Task
) -> None:
    few: dict[str, Any] = {
        "max_new_tokens": 3,
        "kl_prompts": 0,
        "perplexity": False,
        "quiz_questions": 0,
    }
    options = cna.SweepOptions(multipliers=[0], baselines=["random"], random_seeds=[1, 2], **few)
    one = sweep(tiny, circuit, task, options=options, progress=False)
    two = sweep(tiny, circuit, task, [0.0], ["random"], random_seeds=[1, 2], **few, progress=False)
    pd.testing.assert_frame_equal(one.table, two.table)
    settings = [{k: v for k, v in x.settings.items() if k != "date"} for x in (one, two)]
    assert settings[0] == settings[1] == json.loads(json.dumps(settings[0]))
    assert one.settings["random_seeds"] == [1, 2] and one.settings["multipliers"] == [0.0, 1.0]
    both = sweep(tiny, circuit, task, baselines=[], options=options, progress=False)
    assert list(both.table.method) == ["cna", "cna"] and both.settings["max_new_tokens"] == 3
    with pytest.raises(TypeError, match=r"sweep: expected settings among .* got 'max_tokens'"):
        sweep(tiny, circuit, task, max_tokens=3)


def test_every_setting_is_named_where_users_look() -> None:
    for field in dataclasses.fields(cna.SweepOptions):
        assert re.search(rf"\b{field.name}\b", sweep.__doc__ or "")
        assert re.search(rf"^        {field.name}: ", cna.SweepOptions.__doc__ or "", re.MULTILINE)


def test_options_are_values() -> None:
    one = cna.SweepOptions(multipliers=np.array([0, 2]), caa_layers=range(3))
    two = cna.SweepOptions(multipliers=[0.0, 2.0], caa_layers=(0, 1, 2))
    assert one == two and hash(one) == hash(two)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.batch_size = 1  # type: ignore[misc]
    assert cna.SweepOptions(baselines="caa").baselines == ("caa",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("multipliers", [0.0, math.inf]),
        ("multipliers", "10"),
        ("multipliers", 0.5),
        ("caa_coefficients", [math.nan]),
        ("caa_coefficients", ["much"]),
        ("baselines", ["caa", "magic"]),
        ("caa_layers", [-1]),
        ("caa_layers", 3),
        ("random_seeds", [0.5]),
        ("random_seeds", "1"),
        ("max_new_tokens", 0),
        ("batch_size", True),
        ("kl_prompts", -1),
        ("quiz_questions", 2.5),
        ("max_prompts", 0),
        ("relevance_prompts", -1),
        ("random_prompts", 0),
        ("logit_biases", [math.inf]),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^sweep: expected .*{field}.*, got .*; [^\n]+$"):
        cna.SweepOptions(**{field: value})


def test_size_arms_nest(tiny: cna.Model, task: Task) -> None:
    """Each arm ablates the strongest k, so the smaller set lies within the larger one."""
    sizes = [2, 8, 30]
    arms = size_arms(tiny, task, sizes, universal=None)
    assert [(a.method, a.strength) for a in arms] == [(f"k={k}", 0.0) for k in sizes]
    live = (cna.record(tiny, EVALUATION) != 0).all(0)
    ablated = []
    for arm in arms:
        with tiny.steer(arm.intervention):
            off = (cna.record(tiny, EVALUATION) == 0).all(0) & live
        ablated.append({(int(layer), int(index)) for layer, index in off.nonzero()})
    assert [len(found) for found in ablated] == sizes
    assert ablated[0] < ablated[1] < ablated[2]
    strongest = cna.discover(tiny, task.positive, task.negative, k=30, universal=None).neurons
    assert [{(n.layer, n.index) for n in strongest[:k]} for k in sizes] == ablated


def test_the_interval_of_a_mean_is_a_percentile_bootstrap() -> None:
    rng = np.random.default_rng(7)
    for x in (rng.beta(8, 1, 64), rng.normal(3, 2, 30), np.array([0.2, 0.5, 0.9, 0.4])):
        means = x[rng.integers(0, len(x), (20_000, len(x)))].mean(1)
        expected = np.percentile(means, [2.5, 97.5])
        assert mean_interval(list(x)) == pytest.approx(expected, abs=0.05 * x.std())
        narrow = mean_interval(list(x), confidence=0.5)
        assert narrow == pytest.approx(np.percentile(means, [25, 75]), abs=0.05 * x.std())
        assert mean_interval(list(x)) == mean_interval(list(x))  # the draws are fixed


def test_the_interval_of_a_mean_stays_within_its_values() -> None:
    rng = np.random.default_rng(8)
    for n in (2, 3, 5, 17, 64):
        for share in (0.1, 0.5, 0.95):
            x = np.where(rng.random(n) < share, 1.0, rng.random(n))
            low, high = mean_interval(list(x))
            assert 0 <= x.min() <= low <= x.mean() <= high <= x.max() <= 1
    for value in (0.0, 0.1, 1 / 3, 1.0):  # warnings are errors in these tests
        assert mean_interval([value] * 7) == (value, value)
    for few in ([], [1.0], [0.5, math.nan, 1.0]):
        assert all(math.isnan(v) for v in mean_interval(few))


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(9)
    held = [low <= 0.8 <= high for low, high in map(mean_interval, rng.beta(4, 1, (300, 64)))]
    assert 0.90 <= np.mean(held) <= 0.98


def test_a_resumed_run_takes_no_answer_of_another_arm(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"kl_prompts": 0, "perplexity": False, "quiz_questions": 0}
    options |= {"max_new_tokens": 5, "progress": False}
    for seed in (0, 1):
        again = sweep(tiny, circuit, task, [0.0], random_seeds=[seed], out=tmp_path, **options)
        fresh = sweep(tiny, circuit, task, [0.0], random_seeds=[seed], **options)
        assert list(again.answers.answer) == list(fresh.answers.answer)
    other = dataclasses.replace(task, positive=task.positive[:2])
    with pytest.raises(ValueError, match="belong to this run"):
        sweep(tiny, circuit, other, [0.0], out=tmp_path, **options)
    same = cna.Circuit(
        circuit.shape, [cna.Neuron(n.layer, n.index, n.delta * 1.5) for n in circuit]
    )
    sweep(tiny, same, task, [0.0], out=tmp_path, **options)
    with pytest.raises(ValueError, match="each arm once"):
        sweep(tiny, circuit, task, [0.1, 0.1 + 1e-17], arms=neuron_arms("cna", circuit, [0.1]))


def test_a_damaged_line_and_a_folder_that_cannot_be_are_named(
    tiny: cna.Model, circuit: cna.Circuit, task: Task, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/answers.jsonl").write_text('{"fingerprint": "x"}\n{"arm": \n')
    with pytest.raises(ValueError, match="damaged line"):
        sweep(tiny, circuit, task, [0.0], [], out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="sweep: expected to write"):
        sweep(tiny, circuit, task, [0.0], [], out=tmp_path / "file" / "run")
