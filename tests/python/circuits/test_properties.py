"""Laws that hold for any input: moments, top k, sets of neurons, JSON and exact statistics."""

from __future__ import annotations

import json
import math
from typing import Any

import cna
import numpy as np
import pytest
import torch
from cna import _core
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import stats

settings.register_profile(
    "cna",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("cna")

SHAPE = (3, 5)
SIZE = SHAPE[0] * SHAPE[1]
values = st.floats(-1e4, 1e4, width=32)
deltas = st.floats(allow_nan=False, allow_infinity=False, width=64)


def moments(samples: np.ndarray) -> dict[str, Any]:
    mean = samples.mean(0)
    return {
        "count": len(samples),
        "mean": torch.from_numpy(mean),
        "m2": torch.from_numpy(((samples - mean) ** 2).sum(0)),
    }


@st.composite
def sample_parts(draw: st.DrawFn) -> list[np.ndarray]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    flat = draw(st.lists(values, min_size=sum(sizes) * 6, max_size=sum(sizes) * 6))
    samples = np.array(flat, dtype=np.float64).reshape(-1, 2, 3)
    return np.split(samples, np.cumsum(sizes)[:-1])


@given(sample_parts(), st.randoms(use_true_random=False))
def test_moments_merge_in_any_order_to_those_of_all_samples(
    parts: list[np.ndarray], random: Any
) -> None:
    everything = np.concatenate(parts)
    piles = [moments(p) for p in parts]
    while len(piles) > 1:  # any order, any tree
        a = piles.pop(random.randrange(len(piles)))
        b = piles.pop(random.randrange(len(piles)))
        piles.append(_core.merge_moments(a, b))
    merged = piles[0]
    scale = max(1.0, float(np.abs(everything).max()))
    assert merged["count"] == len(everything)
    assert np.abs(merged["mean"].numpy() - everything.mean(0)).max() <= 1e-12 * scale
    m2 = ((everything - everything.mean(0)) ** 2).sum(0)
    assert np.abs(merged["m2"].numpy() - m2).max() <= 1e-10 * scale**2 * len(everything)


@given(sample_parts())
def test_merging_nothing_changes_nothing(parts: list[np.ndarray]) -> None:
    empty = {"count": 0, "mean": torch.zeros(2, 3).double(), "m2": torch.zeros(2, 3).double()}
    full = moments(parts[0])
    for merged in (_core.merge_moments(full, empty), _core.merge_moments(empty, full)):
        assert merged["count"] == full["count"]
        assert torch.equal(merged["mean"], full["mean"]) and torch.equal(merged["m2"], full["m2"])


# --- top k ----------------------------------------------------------------------------------------


def oracle(score: np.ndarray, k: int, removed: set[tuple[int, int]]) -> list[tuple[int, int]]:
    places = [p for p in np.ndindex(*score.shape) if p not in removed]
    return sorted(places, key=lambda p: (-abs(score[p]), p))[:k]


@given(st.data())
def test_top_k_equals_numpy_with_ties(tiny: cna.Model, data: st.DataObject) -> None:
    shape = (tiny.n_layers, tiny.width)
    # Few levels, so that most neurons tie; signs differ.
    seed = data.draw(st.integers(0, 2**32 - 1))
    levels = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(seed)
    delta = rng.integers(-levels, levels + 1, shape).astype(np.float64) / 8
    k = data.draw(st.integers(1, shape[0] * shape[1] // 2))
    flat = rng.choice(shape[0] * shape[1], data.draw(st.integers(0, 40)), replace=False)
    removed = {(int(i) // shape[1], int(i) % shape[1]) for i in flat}
    base = rng.integers(-8, 9, shape).astype(np.float64)
    ones = torch.ones(shape, dtype=torch.float64)
    sides = [{"count": 4, "mean": torch.from_numpy(m), "m2": ones} for m in (base + delta, base)]
    circuit = tiny.core.select(*sides, k=k, universal=sorted(removed))
    assert [(n.layer, n.index) for n in circuit] == oracle(delta, k, removed)
    assert all(n.delta == delta[n.layer, n.index] for n in circuit)
    without = set(oracle(delta, k, set()))
    assert set(circuit.universal_removed) == without & removed


# --- sets of neurons --------------------------------------------------------------------------------

places = st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))
names = st.text(st.characters(codec="utf-8"), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def circuits(draw: st.DrawFn) -> cna.Circuit:
    chosen = draw(st.dictionaries(places, deltas, max_size=SIZE))
    neurons = [cna.Neuron(layer, index, d) for (layer, index), d in chosen.items()]
    provenance = draw(st.dictionaries(names, json_values, max_size=3))
    removed = draw(st.lists(places, max_size=4))
    return cna.Circuit(SHAPE, neurons, provenance, removed)


def ids(circuit: cna.Circuit) -> set[tuple[int, int]]:
    return {(n.layer, n.index) for n in circuit}


@given(circuits(), circuits(), circuits())
def test_set_algebra(a: cna.Circuit, b: cna.Circuit, c: cna.Circuit) -> None:
    assert ids(a | b) == ids(a) | ids(b) == ids(b | a)
    assert ids(a & b) == ids(a) & ids(b) == ids(b & a)
    assert ids(a - b) == ids(a) - ids(b)
    assert ids((a | b) | c) == ids(a | (b | c))
    assert ids((a & b) & c) == ids(a & (b & c))
    assert ids(a & (b | c)) == ids((a & b) | (a & c))
    assert ids(a | (b & c)) == ids((a | b) & (a | c))
    assert ids(a - (b | c)) == ids((a - b) & (a - c))
    assert ids((a - b) | (a & b)) == ids(a)
    assert (a | a).neurons == a.neurons == (a & a).neurons
    assert len(a - a) == 0


@given(circuits(), circuits())
def test_the_left_operand_gives_the_delta_and_the_order_stays(
    a: cna.Circuit, b: cna.Circuit
) -> None:
    left = {(n.layer, n.index): n.delta for n in a}
    for out in (a | b, a & b, a - b):
        strengths = [(-abs(n.delta), n.layer, n.index) for n in out]
        assert strengths == sorted(strengths)
        assert all(left.get((n.layer, n.index), n.delta) == n.delta for n in out)


@given(circuits(), circuits())
def test_overlap_counts_what_sets_count(a: cna.Circuit, b: cna.Circuit) -> None:
    overlap = cna.compare(a, b)
    shared, either = len(ids(a) & ids(b)), len(ids(a) | ids(b))
    assert (overlap.left, overlap.right, overlap.shared) == (len(a), len(b), shared)
    assert overlap.jaccard == (shared / either if either else 1.0)
    p = stats.hypergeom.sf(shared - 1, SIZE, len(a), len(b))
    assert math.isclose(overlap.p_value, p, rel_tol=1e-9)


@given(circuits())
def test_json_round_trips(circuit: cna.Circuit) -> None:
    text = circuit.to_json()
    back = cna.Circuit.from_json(text)
    assert back == circuit == cna.Circuit.from_json(back.to_json())
    assert back.to_json() == text
    assert back.provenance == circuit.provenance
    for x, y in zip(back, circuit, strict=True):
        assert x.delta.hex() == y.delta.hex()
    assert json.loads(text)["n_layers"] == SHAPE[0]


@given(circuits())
def test_a_file_round_trips(tmp_path_factory: pytest.TempPathFactory, circuit: cna.Circuit) -> None:
    path = tmp_path_factory.mktemp("c") / "circuit.json"
    circuit.save(path)
    assert cna.Circuit.load(path) == circuit


# --- statistics -------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.data())
def test_wilson_equals_scipy(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    confidence = data.draw(st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999]))
    low, high = _core.wilson_interval(k, n, confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert math.isclose(low, expected.low, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(high, expected.high, rel_tol=1e-9, abs_tol=1e-12)
    assert 0 <= low <= k / n <= high <= 1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_scipy(gained: int, lost: int) -> None:
    p = _core.mcnemar_exact(gained, lost)
    n = gained + lost
    expected = stats.binomtest(gained, n).pvalue if n else 1.0
    assert math.isclose(p, expected, rel_tol=1e-8)
    assert p == _core.mcnemar_exact(lost, gained)


@given(st.data())
def test_the_hypergeometric_tail_equals_scipy(data: st.DataObject) -> None:
    population = data.draw(st.integers(1, 3000))
    marked = data.draw(st.integers(0, population))
    drawn = data.draw(st.integers(0, population))
    shared = data.draw(st.integers(0, min(marked, drawn)))
    got = _core.hypergeometric_upper_tail(population, marked, drawn, shared)
    # Sum of the smaller side: scipy's own sf cancels where the tail is nearly 1.
    expected = stats.hypergeom.sf(shared - 1, population, marked, drawn)
    assume(expected > 1e-280)
    assert math.isclose(got, expected, rel_tol=1e-7)
