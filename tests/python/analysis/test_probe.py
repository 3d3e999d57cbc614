"""A circuit as a detector against scikit-learn and NumPy."""

from __future__ import annotations

import cna
import numpy as np
import pytest
from cna.analysis.roc import auroc, auroc_interval, rate_at, roc
from cna.tasks import Task
from conftest import PROMPTS, hf_record, make_hf


def test_the_area_and_the_curve_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.7, 3.0):
        a, b = rng.normal(shift, 1, 40).round(1), rng.normal(0, 1, 25).round(1)  # with ties
        truth, scores = [1] * 40 + [0] * 25, np.concatenate([a, b])
        assert auroc(a, b) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
        fpr, tpr, thresholds = metrics.roc_curve(truth, scores, drop_intermediate=False)
        curve = roc(a, b)
        np.testing.assert_allclose(curve["false_positives"], fpr)
        np.testing.assert_allclose(curve["true_positives"], tpr)
        np.testing.assert_allclose(curve["threshold"], thresholds)
        assert rate_at(curve, 0.1) == tpr[fpr <= 0.1].max()


def test_the_interval_holds_the_area_as_often_as_it_says() -> None:
    inside = 0
    truth = 0.7602  # of two normals a standard deviation apart
    for seed in range(60):
        rng = np.random.default_rng(seed)
        low, high = auroc_interval(rng.normal(1, 1, 40), rng.normal(0, 1, 40), draws=400, seed=seed)
        inside += low <= truth <= high
    assert inside >= 51  # 57 expected


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(
        "t",
        "",
        PROMPTS[:4],
        PROMPTS[4:],
        [p + " now" for p in PROMPTS],
        [p + "?" for p in PROMPTS[2:]],
    )


def test_a_probe_is_fitted_on_one_half_and_measured_on_the_other(
    tiny: cna.Model, circuit: cna.Circuit, task: Task
) -> None:
    probe = circuit.probe(tiny, task, draws=5, progress=False)
    hf = make_hf("llama")

    def seen(prompts: list[str]) -> np.ndarray:
        grid = hf_record(hf, tiny.tokenize(prompts)).astype(np.float64)
        return np.stack([grid[:, n.layer, n.index] for n in circuit], 1)

    both = np.concatenate([seen(task.positive), seen(task.negative)])
    sign = np.sign([n.delta for n in circuit])

    def score(prompts: list[str]) -> np.ndarray:
        return ((seen(prompts) - both.mean(0)) / both.std(0) * sign).sum(1)

    expected = np.concatenate([score(task.evaluation), score(task.benign)])
    np.testing.assert_allclose(probe.scores["score"], expected, rtol=1e-3, atol=1e-3)
    assert probe.scores["tokens"].tolist() == [
        len(ids) for ids in tiny.tokenize(task.evaluation + task.benign)
    ]
    above = score(task.evaluation)[:, None] > score(task.benign)
    assert probe.auroc == pytest.approx(above.mean())
    assert probe.rates["benign"] == (score(task.benign) > probe.gate.threshold).mean()
    assert (score(task.negative) > probe.gate.threshold).mean() <= 0.05
    assert probe.table["score"].tolist() == ["circuit", "random", "tokens"]
    assert len(probe.random) == 5 and all(0 <= x <= 1 for x in probe.random)
    assert probe.table["auroc"][1] == np.median(probe.random)
    assert probe.curve["true_positives"].iloc[-1] == 1
    assert "AUROC" in repr(probe) and "evaluation prompts" in probe._repr_html_()
    tiny.generate(PROMPTS[:2], 4, watch=probe, progress=False)
    assert len(probe.watch.scores) == 2 and len(probe.watch.scores[0]) <= 4
    first = [scores[0] for scores in probe.watch.scores]
    np.testing.assert_allclose(first, score(PROMPTS[:2]), rtol=1e-3, atol=1e-3)


def test_random_neurons_are_fitted_as_the_circuit_is(
    tiny: cna.Model, circuit: cna.Circuit, task: Task
) -> None:
    """The draw of a seed, given as the circuit, gets the area that it has as a control."""
    control = cna.random_like(circuit, 2)
    ids = [tiny.tokenize(p) for p in (task.positive, task.negative)]
    a, b = (cna.record(tiny, p, neurons=control, progress=False).double().mean(0) for p in ids)
    neurons = [cna.Neuron(n.layer, n.index, float(d)) for n, d in zip(control, a - b, strict=True)]
    signed = cna.Circuit(circuit.shape, neurons)
    alone = signed.probe(tiny, task, draws=0, progress=False)
    assert alone.auroc == pytest.approx(
        circuit.probe(tiny, task, draws=3, progress=False).random[2]
    )


def test_a_task_without_benign_prompts_is_refused(tiny: cna.Model, circuit: cna.Circuit) -> None:
    bare = Task("t", "", PROMPTS[:4], PROMPTS[4:], ["x"])
    with pytest.raises(ValueError, match=r"^probe: expected benign prompts"):
        circuit.probe(tiny, bare, progress=False)
