"""Tuning: what a candidate does against plain hooks, the choice under its bound, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
import torch
from cna.cli import main
from cna.measure.outcomes import is_broken
from cna.measure.tuning import search as searching
from cna.measure.tuning.budget import MARGIN, Budget
from cna.measure.tuning.candidate import suggest
from cna.measure.tuning.choice import TAIL, WIDE, Choice
from cna.measure.tuning.search import front, within
from cna.measure.tuning.tune import halves
from conftest import hf_generate, make_hf, make_tokenizer
from reference import log_probabilities, scaled_neurons

NEW = 6
SMALL: dict[str, Any] = {"seconds": None, "per_step": 3, "max_new_tokens": NEW, "progress": False}


@pytest.fixture(scope="module")
def hf() -> Any:
    return make_hf()


@pytest.fixture(scope="module")
def model(hf: Any) -> cna.Model:
    return cna.live(hf, make_tokenizer())


@pytest.fixture(scope="module")
def long_task() -> Any:
    """Twelve pairs, other prompts, and a judge of even lengths: a random model has no behaviour."""
    words = "red blue tall open quiet early warm plain wide sharp round light".split()
    return cna.tasks.Task(
        name="words",
        description="",
        positive=[f"Find the {w} door" for w in words],
        negative=[f"Name the {w} tree" for w in words],
        evaluation=[f"Paint a {w} wall" for w in words[:6]],
        benign=[f"Is it {w} today?" for w in words[:5]],
        judge=cna.judges.CallableJudge("even", lambda text: len(text) % 2 == 0),
        prompt_baseline="Be brief.",
    )


def test_a_batch_begins_only_if_the_evaluation_still_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    budget = Budget(started=100.0, seconds=60.0, evaluation=2.0)
    begun = 0
    while begun < 1 or budget.has_time_for(1):
        with budget.batch():
            clock[0] += 7.0 if begun else 9.0  # the slowest counts
        begun += 1
    assert clock[0] + 9.0 * (1 + MARGIN * 2.0) > 160.0 >= clock[0] + 9.0 * MARGIN * 2.0
    assert Budget(100.0, None, 2.0).has_time_for(10**9)


def test_a_search_without_time_measures_one_batch_of_each_and_says_so(
    model: cna.Model, long_task: Any
) -> None:
    best = cna.tune(model, long_task, **(SMALL | {"seconds": 1e-3}))
    assert best.settings["steps"] == 1
    of_layers = len(best.table[best.table["kind"] == "caa"]["layer"].unique())
    assert best.settings["caa_grid"] == [3, 12] and of_layers == 3
    whole = cna.tune(model, long_task, **SMALL, steps=1)
    assert whole.settings["caa_grid"] == [12, 12]


def mean_log_p(hf: Any, prompt: list[int], said: list[int]) -> float:
    rows = log_probabilities(hf, prompt, said)
    return float(rows[torch.arange(len(said)), said].mean())


def test_a_setting_is_measured_as_plain_hooks_do(hf: Any, model: cna.Model, long_task: Any) -> None:
    positive, negative, harmless = long_task.positive[:4], long_task.negative[:4], ["Good day"]
    choice = Choice(
        model,
        long_task.judge,
        positive,
        negative,
        harmless,
        chat=None,
        max_new_tokens=NEW,
        batch_size=3,
        progress=False,
    )
    circuit = cna.discover(model, positive, negative, k=9, universal=None, progress=False)
    strengths = [-3.0, 0.5]
    found = choice.measure([cna.Intervention.scale(circuit, [m]) for m in strengths], False)

    calm = model.tokenize([*negative, *harmless])
    own = [hf_generate(hf, ids, NEW) for ids in calm]
    asked, matched = model.tokenize(positive), calm[:4]

    def reading(prompts: list[list[int]], said: list[list[int]]) -> tuple[Any, Any]:
        likely = [
            mean_log_p(hf, p, s) if s else -np.inf for p, s in zip(prompts, said, strict=True)
        ]
        others = [*prompts[1:], prompts[0]]
        given = [mean_log_p(hf, p, s) if s else -np.inf for p, s in zip(others, said, strict=True)]
        return np.array(likely), np.array(likely) - np.array(given)

    likely, relevant = reading(matched, own[:4])
    assert choice.least_likely == pytest.approx(np.quantile(likely, TAIL) - WIDE, abs=1e-4)
    assert choice.least_relevant == pytest.approx(np.quantile(relevant, TAIL), abs=1e-4)
    for m, got in zip(strengths, found, strict=True):
        kl = []
        for ids, said in zip(calm, own, strict=True):
            plain = log_probabilities(hf, ids, said)
            with scaled_neurons(hf, circuit, m):
                steered = log_probabilities(hf, ids, said)
            kl.append(float((plain.exp() * (plain - steered)).sum(-1).mean()))
        assert got.kl == pytest.approx(np.mean(kl), rel=2e-3, abs=1e-6)
        assert got.kl_error == pytest.approx(
            np.std(kl, ddof=1) / len(kl) ** 0.5, rel=2e-3, abs=1e-6
        )
        with scaled_neurons(hf, circuit, m):
            said = [hf_generate(hf, ids, NEW) for ids in asked]
        likely, relevant = reading(asked, said)
        texts = [model.decode(s) for s in said]
        broken = [is_broken(t, s) for t, s in zip(texts, said, strict=True)]
        hits = [len(t) % 2 == 0 and not b for t, b in zip(texts, broken, strict=True)]
        far = (likely < choice.least_likely) | (relevant < choice.least_relevant)
        astray = [not h and not b and f for h, b, f in zip(hits, broken, far, strict=True)]
        assert got.rate == np.mean(hits) and got.broken == np.mean(broken)
        assert got.other == pytest.approx(1 - got.rate - got.broken)
        assert got.astray == np.mean(astray)
        assert got.left == pytest.approx(got.rate + got.broken + got.astray)
    far, near = choice.measure(
        [cna.Intervention.scale(circuit, [m]) for m in strengths], False, 0.9 * found[0].kl
    )
    assert (far.n, far.kl, near) == (0, found[0].kl, found[1]) and np.isnan(far.left)


def test_a_text_that_only_evades_the_judge_counts_as_left(
    hf: Any, model: cna.Model, long_task: Any
) -> None:
    """No hit, no repetition, but not what the model would say; tests/demo has a real such case."""
    judge = cna.judges.CallableJudge("never", lambda text: "never" in text)
    choice = Choice(
        model, judge, long_task.positive[:6], long_task.negative[:6], [],
        chat=None, max_new_tokens=NEW, batch_size=8, progress=False,
    )  # fmt: skip
    circuit = cna.discover(
        model, long_task.positive, long_task.negative, k=25, universal=None, progress=False
    )
    steered = [cna.Intervention(1), cna.Intervention.scale(circuit, [-4.0])]
    plain, trap = choice.measure(steered, False)
    assert (plain.rate, trap.rate, trap.other) == (0, 0, 1)  # by outcomes both are perfect
    # A random model finds all texts about as likely: the bound is put between the two.
    likely = []
    for m in (1.0, -4.0):
        with model.steer(circuit, m):
            said = model.generate(long_task.positive[:6], NEW, return_tokens=True, progress=False)
        asked = model.tokenize(long_task.positive[:6])
        likely.append([mean_log_p(hf, p, s) for p, s in zip(asked, said, strict=True)])
    choice.least_likely = float(np.median(np.concatenate(likely)))
    choice.least_relevant = -np.inf
    plain, trap = choice.measure(steered, False)
    for got, values in zip((plain, trap), likely, strict=True):
        assert got.astray == np.mean(np.array(values) < choice.least_likely)
    assert trap.left > plain.left
    rows = pd.DataFrame([{"k": 1, **vars(plain)}, {"k": 1, **vars(trap)}])
    assert within(rows, max_kl=1e9).iloc[0]["left"] == plain.left


def test_tune_chooses_under_its_bound_and_keeps_a_run(
    model: cna.Model, long_task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = cna.tune(model, long_task, max_kl=0.5, steps=4, out=tmp_path / "run", **SMALL)
    circuits = best.table[best.table["kind"] == "circuit"]
    fits = circuits[circuits["kl"] + circuits["kl_error"] <= 0.5]
    assert best.within_bound == bool(len(fits))
    if len(fits):
        assert best.chosen["left"] == fits["left"].min()
    assert len(best.table[best.table["kind"] == "caa"]) == 4 * len(
        set(best.table["layer"].dropna())
    )
    assert len(best.circuit) == best.chosen["k"]
    # The choice, counted again from the prompts: the circuit comes from the fit half alone.
    fit, _ = halves(long_task, 0)
    chosen = best.chosen
    again = cna.discover(
        model,
        *fit,
        k=int(chosen["k"]),
        ranking=chosen["ranking"],
        penalty=chosen["penalty"] or 0.1,
        layers=(int(chosen["first_layer"]), model.n_layers - 1),
        progress=False,
    )
    assert again.neurons == best.circuit.neurons
    # The evaluation prompts were answered at this strength, beside CAA and the instruction.
    methods = set(best.evaluation.table["method"])
    assert methods == {"cna", "tuned", "caa", "prompt"}
    with model.steer(best.operation, best.strength):
        said = model.generate(long_task.evaluation, NEW, progress=False)
    rows = best.evaluation.answers
    mine = rows[(rows["method"] == "tuned") & (rows["set"] == "evaluation")].sort_values("index")
    assert mine["answer"].tolist() == said
    # The folder is what the other commands take.
    for name in ("circuit.json", "steering.json", "trials.csv", "tune.json", "figures/front.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    said_of = json.loads((tmp_path / "run" / "tune.json").read_text(), parse_constant=pytest.fail)
    assert said_of["chosen"]["k"] == len(best.circuit)  # no NaN, which is no JSON
    table = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert table["left"].tolist() == pytest.approx(best.table["left"].tolist())
    assert best.plot().axes
    left, kl = best.chosen["left"], best.chosen["kl"]
    assert repr(best).startswith(f"TuneResult({best.name}: {left:.2f} left at KL {kl:.3f}, ")
    page = best._repr_html_()
    assert page.count("<tr") == 1 + len(best.front) and f"of {len(circuits)} candidates" in page


def test_a_stopped_search_goes_on(
    model: cna.Model, long_task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cna.tune(model, long_task, steps=4, **SMALL)
    measured = Choice.measure
    calls = []

    def stops(self: Choice, steered: Any, *more: Any) -> Any:
        if len(calls) == 6:  # behind four of CAA's and two steps
            raise KeyboardInterrupt
        calls.append(len(steered))
        return measured(self, steered, *more)

    monkeypatch.setattr(Choice, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        cna.tune(model, long_task, steps=4, out=tmp_path, **SMALL)
    monkeypatch.setattr(Choice, "measure", measured)
    kept = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert 2 <= len(kept) < 5
    (tmp_path / "trials.jsonl").write_text("\n".join(kept) + '\n[{"candi')  # a kill cut a line
    resumed = cna.tune(model, long_task, steps=4, out=tmp_path, **SMALL)
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    with pytest.raises(ValueError, match=r"^tune: expected .* to hold this search or none"):
        cna.tune(model, long_task, steps=4, seed=1, out=tmp_path, **SMALL)


def test_the_front_and_the_bound() -> None:
    rows = pd.DataFrame(
        {
            "left": [0.5, 0.4, 0.4, 0.9, 0.1],
            "kl": [0.02, 0.04, 0.03, 0.01, 0.2],
            "kl_error": [0.0, 0.0, 0.03, 0.0, 0.0],
            "k": [9, 9, 9, 9, 9],
        }
    )
    assert front(rows).index.tolist() == [3, 0, 2, 4]
    assert within(rows, 0.05).index.tolist() == [1, 0, 3]  # row 2 may lie above it


def test_a_trial_is_one_candidate() -> None:
    values = {
        "ranking": "contribution", "penalty": 0.1, "size": 1.0, "depth": 0.5,
        "operation": "shift", "shift_strength": 1.0,
    }  # fmt: skip
    trial = SimpleNamespace(
        suggest_categorical=lambda name, choices: values[name],
        suggest_float=lambda name, low, high, log=False: values[name],
    )
    candidate = suggest(trial, n_layers=30, neurons=46080)
    assert candidate.name == "contribution 0.1, k 46, from layer 15, shift 1"


def test_halves_share_no_prompt(long_task: Any) -> None:
    fit, choice = halves(long_task, seed=3)
    for side in (0, 1):
        assert not set(fit[side]) & set(choice[side])
        assert len(fit[side]) + len(choice[side]) == 12
    pairs = dict(zip(long_task.positive, long_task.negative, strict=True))
    assert [pairs[p] for p in choice[0]] == choice[1]


def test_refusals(model: cna.Model, long_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^tune: expected a bound on KL above 0"):
        cna.tune(model, long_task, max_kl=0.0)
    with pytest.raises(ValueError, match=r"^tune: expected seconds or steps"):
        cna.tune(model, long_task, seconds=None)
    few = cna.tasks.Task("few", "", ["a b"] * 3, ["c d"] * 3, ["e"], judge=long_task.judge)
    with pytest.raises(ValueError, match=r"^tune: expected 8 discovery prompts or more"):
        cna.tune(model, few)
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(RuntimeError, match=r"^tune: expected the package optuna, found none"):
        searching.require_optuna()
    assert main(["tune", "--task", "nowhere"]) != 0
