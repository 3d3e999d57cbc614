"""Analyses against brute force in NumPy and SciPy, float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import cna
import numpy as np
import pytest
import scipy.stats
import torch
from cna import analysis, display

SHAPE = (8, 32)


def brute_circuit(
    positive: np.ndarray, negative: np.ndarray, k: int, excluded: set[tuple[int, int]]
) -> list[tuple[int, int]]:
    delta = positive.astype(np.float64).mean(0) - negative.astype(np.float64).mean(0)
    places = [p for p in np.ndindex(*delta.shape) if p not in excluded]
    return sorted(places, key=lambda p: (-abs(delta[p]), p))[:k]


@pytest.fixture
def recordings() -> analysis.Recordings:
    rng = np.random.default_rng(3)
    positive = rng.normal(size=(9, *SHAPE)).astype(np.float32)
    negative = rng.normal(size=(7, *SHAPE)).astype(np.float32)
    positive[:, 7, :4] += 4.0
    positive[:, 6, 5] -= 5.0
    positive[:, 0, 0] += 50.0
    return analysis.Recordings(positive, negative, excluded=((0, 0),))


@pytest.fixture
def model(tiny: cna.Model) -> cna.Model:
    return tiny


POSITIVE = ["The cats are here.", "Dogs run away.", "Birds sing.", "Two men walk home."]
NEGATIVE = ["The cat is here.", "A dog runs.", "One bird sings now.", "He walks."]


def circuit_of(places: list[tuple[int, int]], shape: tuple[int, int] = SHAPE) -> cna.Circuit:
    return cna.Circuit(shape, [cna.Neuron(at, j, 1.0 + i) for i, (at, j) in enumerate(places)])


# --- localisation -------------------------------------------------------------------------------


def test_layer_table_counts_every_layer_and_its_shares_sum_to_one():
    table = analysis.layer_table(circuit_of([(7, 1), (7, 2), (2, 9), (6, 0)]))
    assert table["layer"].tolist() == list(range(8))
    assert table["count"].tolist() == [0, 0, 1, 0, 0, 0, 1, 2]
    assert table["share"].sum() == pytest.approx(1.0)
    assert analysis.layer_table(cna.Circuit(SHAPE, []))["share"].tolist() == [0.0] * 8


def test_concentration_repeats_the_papers_table_6_from_the_logged_counts():
    # arXiv 2605.12290, table 6: Llama-3.2-1B-Instruct refusal, 16 layers: 87.0 and 90.0 %;
    # Qwen2.5-3B-Instruct capitals, 36 layers: 68.5 and 100.0 %.
    for layers, counts, three, quarter in (
        (16, "6:1 8:1 9:5 10:3 11:10 12:6 13:12 14:35 15:127", 0.870, 0.900),
        (36, "27:2 28:2 29:7 30:15 31:17 32:20 33:27 34:24 35:86", 0.685, 1.000),
    ):
        pairs = [tuple(map(int, item.split(":"))) for item in counts.split()]
        places = [(layer, j) for layer, n in pairs for j in range(n)]
        got = analysis.concentration(circuit_of(places, (layers, 128)))
        assert got.last_three == pytest.approx(three)
        assert got.last_quarter == pytest.approx(quarter)
        assert got.quarter_layers == layers // 4


def test_concentration_of_shallow_models_and_empty_circuits_is_defined():
    small = analysis.concentration(circuit_of([(0, 0), (1, 0)], (2, 4)))
    assert (small.last_three, small.last_quarter, small.quarter_layers) == (1.0, 0.5, 1)
    assert small.table["even_share"].tolist() == [1.0, 0.5]
    empty = analysis.concentration(cna.Circuit(SHAPE, []))
    assert (empty.last_three, empty.last_quarter) == (0.0, 0.0)


def test_compare_circuits_agrees_with_sets_and_scipy():
    rng = np.random.default_rng(0)
    grid = list(np.ndindex(*SHAPE))
    a = {grid[i] for i in rng.choice(len(grid), 40, replace=False)}
    b = {grid[i] for i in rng.choice(len(grid), 25, replace=False)} | set(list(a)[:5])
    got = analysis.compare_circuits(circuit_of(sorted(a)), circuit_of(sorted(b)))
    assert got.shared == len(a & b)
    assert got.jaccard == pytest.approx(len(a & b) / len(a | b))
    assert got.share_of_left == pytest.approx(len(a & b) / len(a))
    assert got.share_of_right == pytest.approx(len(a & b) / len(b))
    assert got.expected == pytest.approx(len(a) * len(b) / len(grid))
    assert got.p_value == pytest.approx(
        scipy.stats.hypergeom.sf(len(a & b) - 1, len(grid), len(a), len(b)), rel=1e-9
    )
    assert got.same_sign == got.shared


def test_compare_circuits_counts_signs_and_takes_empty_circuits():
    left = cna.Circuit(SHAPE, [cna.Neuron(1, 1, 1.0), cna.Neuron(1, 2, -1.0)])
    right = cna.Circuit(SHAPE, [cna.Neuron(1, 1, -2.0), cna.Neuron(1, 2, -3.0)])
    assert analysis.compare_circuits(left, right).same_sign == 1
    empty = analysis.compare_circuits(left, cna.Circuit(SHAPE, []))
    assert (empty.shared, empty.share_of_right, empty.p_value) == (0, 0.0, 1.0)
    with pytest.raises(ValueError, match="one model"):
        analysis.compare_circuits(left, cna.Circuit((2, 2), []))


def test_base_against_instruct_of_one_model_with_itself_shares_all(model: cna.Model):
    same = analysis.base_against_instruct(
        model, model, POSITIVE, NEGATIVE, chat=False, k=10, universal=None, progress=False
    )
    assert same.overlap.jaccard == 1.0
    assert same.table["share_of_instruct"].tolist()[2] == 1.0
    assert same.base == cna.discover(
        model, POSITIVE, NEGATIVE, chat=False, k=10, universal=None, progress=False
    )
    assert "100.0 % of the instruct circuit" in same._repr_html_()


def test_base_against_instruct_feeds_the_base_model_raw_text(model: cna.Model):
    both = analysis.base_against_instruct(
        model, model, POSITIVE, NEGATIVE, k=10, universal=None, progress=False
    )
    raw, chat = (
        cna.discover(model, POSITIVE, NEGATIVE, k=10, universal=None, chat=c, progress=False)
        for c in (False, None)
    )
    assert both.base == raw
    assert both.instruct == chat
    want = analysis.compare_circuits(raw, chat)
    assert both.overlap == want


def test_base_against_instruct_refuses_models_of_different_shape(model: cna.Model):
    class Other:
        n_layers, width, widths = 5, 64, [64] * 5

    with pytest.raises(ValueError, match="one architecture"):
        analysis.base_against_instruct(Other(), model, POSITIVE, NEGATIVE)  # type: ignore[arg-type]


# --- stability ----------------------------------------------------------------------------------


def test_stability_agrees_with_a_plain_bootstrap_of_the_same_draws(
    recordings: analysis.Recordings,
):
    got = analysis.stability(recordings, k=6, n_bootstrap=40, n_halves=15, seed=11)
    rng = np.random.default_rng(11)
    n, m = len(recordings.positive), len(recordings.negative)
    plain = brute_circuit(recordings.positive, recordings.negative, 6, {(0, 0)})
    assert [(x.layer, x.index) for x in got.circuit.neurons] == plain
    left = rng.multinomial(n, np.full(n, 1 / n), 40)
    right = rng.multinomial(m, np.full(m, 1 / m), 40)
    hits, jaccards, deltas = dict.fromkeys(plain, 0), [], []
    for a, b in zip(left, right, strict=True):
        positive = np.repeat(recordings.positive, a, axis=0)
        negative = np.repeat(recordings.negative, b, axis=0)
        found = set(brute_circuit(positive, negative, 6, {(0, 0)}))
        for place in found & set(plain):
            hits[place] += 1
        jaccards.append(len(found & set(plain)) / len(found | set(plain)))
        delta = positive.astype(float).mean(0) - negative.astype(float).mean(0)
        deltas.append([delta[p] for p in plain])
    np.testing.assert_allclose(got.frequency, [hits[p] / 40 for p in plain])
    np.testing.assert_allclose(got.bootstrap_jaccard, jaccards)
    low, high = np.percentile(deltas, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(got.delta_low, low, rtol=1e-12)
    np.testing.assert_allclose(got.delta_high, high, rtol=1e-12)

    halves = []
    for _ in range(15):
        a, b = rng.permutation(n), rng.permutation(m)
        one = brute_circuit(
            recordings.positive[a[: n // 2]], recordings.negative[b[: m // 2]], 6, {(0, 0)}
        )
        two = brute_circuit(
            recordings.positive[a[n // 2 :]], recordings.negative[b[m // 2 :]], 6, {(0, 0)}
        )
        halves.append(len(set(one) & set(two)) / len(set(one) | set(two)))
    np.testing.assert_allclose(got.half_jaccard, halves)
    np.testing.assert_allclose(got.half_interval, np.percentile(halves, [2.5, 50, 97.5]))


def test_stability_is_the_same_in_small_blocks(
    recordings: analysis.Recordings, monkeypatch: pytest.MonkeyPatch
):
    whole = analysis.stability(recordings, k=6, n_bootstrap=30, n_halves=9, seed=2)
    monkeypatch.setattr("cna.analysis.recordings._BLOCK_BYTES", 8 * 256 * 7)
    blocks = analysis.stability(recordings, k=6, n_bootstrap=30, n_halves=9, seed=2)
    np.testing.assert_array_equal(whole.frequency, blocks.frequency)
    np.testing.assert_array_equal(whole.half_jaccard, blocks.half_jaccard)


def test_stability_repeats_from_its_seed_and_changes_with_it(recordings: analysis.Recordings):
    one, same, other = (
        analysis.stability(recordings, k=12, n_bootstrap=25, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.frequency, same.frequency)
    np.testing.assert_array_equal(one.half_jaccard, same.half_jaccard)
    assert not np.array_equal(one.bootstrap_jaccard, other.bootstrap_jaccard)


def test_stability_keeps_planted_neurons_and_excludes_universal_ones(
    recordings: analysis.Recordings,
):
    got = analysis.stability(recordings, k=5, n_bootstrap=50, n_halves=20)
    planted = {(7, 0), (7, 1), (7, 2), (7, 3), (6, 5)}
    assert {(x.layer, x.index) for x in got.core(0.8).neurons} == planted
    assert (got.table["delta_low"] <= got.table["delta"]).all()
    assert (got.table["delta"] <= got.table["delta_high"]).all()
    assert got.chance_jaccard == pytest.approx(5 / (2 * 255 - 5))
    assert "bootstrap circuits" in got._repr_html_()
    assert "split-half" in repr(got)


def test_stability_breaks_ties_by_layer_then_index():
    flat = np.zeros((3, 2, 4))
    got = analysis.stability(analysis.Recordings(flat, flat), k=3, n_bootstrap=4, n_halves=2)
    assert [(x.layer, x.index) for x in got.circuit.neurons] == [(0, 0), (0, 1), (0, 2)]
    assert got.frequency.tolist() == [1.0] * 3


def test_stability_of_a_model_finds_the_circuit_that_discover_finds(model: cna.Model):
    got = analysis.stability(
        model, POSITIVE, NEGATIVE, k=8, n_bootstrap=5, n_halves=3, universal=None, progress=False
    )
    want = cna.discover(model, POSITIVE, NEGATIVE, k=8, universal=None, progress=False)
    assert [(x.layer, x.index) for x in got.circuit.neurons] == [
        (x.layer, x.index) for x in want.neurons
    ]
    np.testing.assert_allclose(
        [x.delta for x in got.circuit.neurons], [x.delta for x in want.neurons], rtol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "expected k between"),
        ({"k": 256}, "expected k between 1 and 255"),
        ({"k": True}, "expected k between"),
        ({"fraction": 0.0}, "fraction above 0"),
        ({"n_bootstrap": 0}, "n_bootstrap"),
        ({"n_halves": -1}, "n_halves"),
        ({"positive": ["x"]}, "recordings alone"),
    ],
)
def test_stability_refuses_bad_numbers(
    recordings: analysis.Recordings, change: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        analysis.stability(recordings, **change)


def test_stability_refuses_a_single_prompt_and_a_model_without_prompts(model: cna.Model):
    one = analysis.Recordings(np.ones((1, 2, 4)), np.ones((3, 2, 4)))
    with pytest.raises(ValueError, match="at least 2 prompts"):
        analysis.stability(one)
    with pytest.raises(ValueError, match="prompts with a model"):
        analysis.stability(model)


def test_recordings_refuse_wrong_shapes_nan_and_neurons_outside():
    good = np.ones((2, 2, 4))
    with pytest.raises(ValueError, match="n_prompts, n_layers, width"):
        analysis.Recordings(np.ones((2, 8)), good)
    with pytest.raises(ValueError, match="one model"):
        analysis.Recordings(np.ones((2, 3, 4)), good)
    with pytest.raises(ValueError, match="NaN"):
        analysis.Recordings(np.full((2, 2, 4), np.nan), good)
    with pytest.raises(IndexError, match="inside 2 x 4"):
        analysis.Recordings(good, good, excluded=((2, 0),))
    kept = analysis.Recordings(torch.ones(2, 2, 4, dtype=torch.bfloat16), good)
    assert kept.positive.dtype == np.float32
    assert repr(kept) == "Recordings(2 positive, 2 negative, 2 x 4, 0 excluded)"


# --- permutation null ---------------------------------------------------------------------------


def test_permutation_null_agrees_with_a_loop_over_the_same_relabellings():
    rng = np.random.default_rng(5)
    acts = rng.normal(size=(11, 3, 6))
    labels = np.arange(11) % 3 == 0
    acts[labels, 2, 1] += 3
    got = analysis.permutation_null(acts, labels, 4, 300, seed=8, excluded=[(0, 2)])
    signs = np.where(labels, 1 / labels.sum(), -1 / (~labels).sum())
    flat = acts.reshape(11, -1)
    keep = np.array([p for p in range(18) if p != 2])
    delta = signs @ flat
    draws = np.random.default_rng(8).permuted(np.tile(signs, (300, 1)), axis=1)
    null = np.abs(np.array([row @ flat for row in draws]))[:, keep]
    seen = np.abs(delta)[keep]
    np.testing.assert_allclose(got.delta.ravel(), delta)
    np.testing.assert_allclose(
        got.p_value.ravel()[keep], (1 + (null >= seen).sum(0)) / 301, atol=1e-12
    )
    np.testing.assert_allclose(
        got.p_family.ravel()[keep], [(1 + (null.max(1) >= x).sum()) / 301 for x in seen]
    )
    assert np.isnan(got.p_value[0, 2]) and np.isnan(got.p_family[0, 2])
    kth = np.sort(null, axis=1)[:, -4]
    np.testing.assert_allclose(got.null_kth, kth)
    assert got.kth == pytest.approx(np.sort(seen)[-4])
    assert got.p_kth == pytest.approx((1 + (kth >= got.kth).sum()) / 301)
    assert got.labelings == math.comb(11, 4)
    table = got.table
    assert (table["layer"][0], table["index"][0]) == (2, 1)
    assert (0, 2) not in set(zip(table["layer"], table["index"], strict=True))


def test_permutation_null_approaches_the_exact_test_of_all_labellings():
    acts = np.random.default_rng(1).normal(size=(7, 1, 3))
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    got = analysis.permutation_null(acts, labels, 1, 20_000)
    flat = acts.reshape(7, 3)
    exact = []
    for chosen in itertools.combinations(range(7), 3):
        part = np.isin(np.arange(7), chosen)
        exact.append(np.abs(flat[part].mean(0) - flat[~part].mean(0)))
    exact = np.array(exact)
    want = (exact >= np.abs(got.delta.ravel()) - 1e-12).mean(0)
    np.testing.assert_allclose(got.p_value.ravel(), want, atol=0.015)


def test_permutation_null_agrees_with_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.8, 1, 12), rng.normal(0, 1, 10)
    acts = np.concatenate([a, b])[:, None, None]
    got = analysis.permutation_null(acts, np.arange(22) < 12, 1, 5000)
    want = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.abs(x.mean(axis) - y.mean(axis)),
        vectorized=True,
        n_resamples=5000,
        alternative="greater",
        rng=np.random.default_rng(0),
    ).pvalue
    assert got.p_value.item() == pytest.approx(want, abs=0.02)


def test_permutation_null_never_reports_zero_and_keeps_its_level_on_noise():
    rng = np.random.default_rng(9)
    family = []
    for trial in range(60):
        noise = rng.normal(size=(10, 2, 20))
        got = analysis.permutation_null(noise, np.arange(10) < 5, 3, 99, seed=trial)
        family.append(got.p_family.min() <= 0.05)
        assert got.p_value.min() >= 0.01
    assert np.mean(family) <= 0.15  # 5 % expected; 60 trials


def test_permutation_null_takes_recordings_and_models_alike(
    recordings: analysis.Recordings, model: cna.Model
):
    got = analysis.permutation_null(recordings, k=5, n=200, seed=1)
    stacked = np.concatenate([recordings.positive, recordings.negative])
    same = analysis.permutation_null(stacked, np.arange(16) < 9, 5, 200, seed=1, excluded=[(0, 0)])
    np.testing.assert_array_equal(got.p_value, same.p_value)
    assert (got.table["p_family"] < 0.05).all()
    assert "relabellings" in got._repr_html_() and "p_kth" in repr(got)

    labels = [i % 2 == 0 for i in range(8)]
    mixed = [x for pair in zip(POSITIVE, NEGATIVE, strict=True) for x in pair]
    of_model = analysis.permutation_null(
        model, labels, 5, 50, prompts=mixed, universal=None, progress=False
    )
    sets = analysis.record_sets(model, POSITIVE, NEGATIVE, universal=None, progress=False)
    np.testing.assert_array_equal(
        of_model.p_value, analysis.permutation_null(sets, k=5, n=50).p_value
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "expected labels"),
        ([True] * 4, "one kind"),
        ([True, False], "expected 4 labels"),
        ([0, 1, 2, 1], "True or False"),
    ],
)
def test_permutation_null_refuses_bad_labels(labels: Any, message: str):
    with pytest.raises(ValueError, match=message):
        analysis.permutation_null(np.ones((4, 2, 2)), labels, 1, 10)


def test_permutation_null_refuses_double_labels_and_a_model_without_prompts(
    recordings: analysis.Recordings, model: cna.Model
):
    with pytest.raises(ValueError, match="no labels beside"):
        analysis.permutation_null(recordings, [True], 1)
    with pytest.raises(ValueError, match="prompts with a model"):
        analysis.permutation_null(model, [True, False], 1)


def test_record_sets_leaves_out_the_universal_neurons_it_is_given(model: cna.Model):
    removed = cna.UniversalNeurons(((0, 3), (1, 2)), 10, 0.8, 0.001, "x")
    sets = analysis.record_sets(model, POSITIVE, NEGATIVE, universal=removed, progress=False)
    assert sets.excluded == ((0, 3), (1, 2))
    want = cna.record(model, POSITIVE, progress=False).numpy()
    np.testing.assert_allclose(sets.positive, want, atol=1e-5)
    with pytest.raises(ValueError, match="universal='default'"):
        analysis.record_sets(model, POSITIVE, NEGATIVE, universal="some", progress=False)


# --- smallest k ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k_max", [1, 2, 3, 7, 64, 100])
def test_smallest_k_finds_every_step_of_a_monotone_effect(k_max: int):
    for step in range(1, k_max + 1):
        calls: list[int] = []

        def effect(k: int, step: int = step, calls: list[int] = calls) -> float:
            calls.append(k)
            return 1.0 if k >= step else 0.1

        got = analysis.smallest_k(effect, k_max, share=0.8)
        assert got.k == step
        assert got.monotone
        assert len(calls) == len(set(calls)) <= math.ceil(math.log2(k_max)) + 2
        assert [k for k, _ in got.evaluations] == calls


def test_smallest_k_says_where_the_effect_is_not_monotone():
    got = analysis.smallest_k(lambda k: {8: 1.0, 4: 1.0, 2: 0.3}.get(k, 0.2), 8)
    assert not got.monotone
    assert got.table["k"].is_monotonic_increasing
    assert "not monotone" in got._repr_html_()


@pytest.mark.parametrize(
    ("effect", "k_max", "share", "message"),
    [
        (lambda k: 0.0, 4, 0.8, "effect above 0"),
        (lambda k: math.nan, 4, 0.8, "finite"),
        (lambda k: 1.0, 0, 0.8, "k_max"),
        (lambda k: 1.0, 4, 0.0, "share above 0"),
    ],
)
def test_smallest_k_refuses_what_cannot_be_searched(
    effect: Any, k_max: int, share: float, message: str
):
    with pytest.raises(ValueError, match=message):
        analysis.smallest_k(effect, k_max, share=share)


def test_rate_reduction_counts_the_answers_that_turn_into_other_unbroken_ones(model: cna.Model):
    ranking = cna.discover(model, POSITIVE, NEGATIVE, k=40, universal=None, progress=False)
    prompts = [f"Say {i}." for i in range(6)]
    before = model.generate(prompts, max_new_tokens=4, progress=False)

    class Unchanged:
        name = "unchanged"

        def judge_all(self, answers: list[str], prompts: list[str] | None = None) -> list[bool]:
            return [a == b for a, b in zip(answers, before, strict=True)]

    task = cna.tasks.Task("t", "", POSITIVE, NEGATIVE, prompts, judge=Unchanged())  # type: ignore[arg-type]
    effect = analysis.rate_reduction(model, ranking, task, multiplier=-8.0, max_new_tokens=4)
    for k in (1, 40):
        part = cna.Circuit(ranking.shape, ranking.neurons[:k])
        with model.steer(part, multiplier=-8.0):
            tokens = model.generate(prompts, max_new_tokens=4, progress=False, return_tokens=True)
        after = [model.decode(t) for t in tokens]
        # Four tokens have one 4-gram, so they are broken only where they are no text.
        turned = [a != b and a.strip() != "" for a, b in zip(after, before, strict=True)]
        assert effect(k) == pytest.approx(sum(turned) / 6)
    with pytest.raises(ValueError, match="between 1 and 40"):
        effect(41)


# --- HTML ---------------------------------------------------------------------------------------


def test_circuit_html_escapes_text_and_runs_no_script():
    bad = "<script>alert('x')</script>"
    circuit = cna.Circuit(SHAPE, [cna.Neuron(1, 2, 0.5)], {"model_id": bad, "note": bad, "k": 1})
    html = circuit._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<details>" in html and "<svg" in html


@pytest.mark.parametrize("layers", [1, 2, 16, 80, 200])
def test_circuit_html_draws_a_bar_for_every_layer(layers: int):
    html = cna.Circuit((layers, 8), [cna.Neuron(layers - 1, 3, -1.0)])._repr_html_()
    assert html.count("<rect") == layers
    assert f"<title>layer {layers - 1}: 1</title>" in html


def test_circuit_html_shows_the_ten_strongest_and_empty_circuits():
    html = circuit_of([(0, j) for j in range(25)])._repr_html_()
    assert "The 10 strongest of 25 neurons" in html
    assert "No neurons." in cna.Circuit(SHAPE, [])._repr_html_()


def test_number_writes_missing_and_special_values():
    got = [display.number(x) for x in (None, float("nan"), True, -0.5, 12345, 1e-9, "a", np.inf)]
    assert got == ["–", "–", "yes", "−0.5", "12,345", "1e−09", "a", "∞"]


def test_paired_labels_are_exchanged_within_pairs_only():
    """Against every exchange of four pairs, by hand."""
    rng = np.random.default_rng(3)
    common = rng.normal(0, 5, (4, 1, 6))  # what a pair shares hides the difference elsewhere
    acts = np.concatenate([common + rng.normal(1, 0.1, (4, 1, 6)), common])
    labels = [True] * 4 + [False] * 4
    got = analysis.permutation_null(acts, labels, k=2, n=4000, paired=True)
    differences = (acts[:4] - acts[4:]).reshape(4, 6)
    every = np.array(list(itertools.product([-1, 1], repeat=4)))
    null = np.abs(every @ differences) / 4
    exact = (null >= np.abs(differences.mean(0)) * (1 - 1e-9)).mean(0)
    assert got.p_value.ravel() == pytest.approx(exact, abs=0.03)
    assert got.labelings == 16
    free = analysis.permutation_null(acts, labels, k=2, n=500)
    assert (free.p_value > got.p_value + 0.2).mean() > 0.5
    with pytest.raises(ValueError, match="as many positive as negative prompts with paired=True"):
        analysis.permutation_null(acts[:-1], labels[:-1], k=2, n=5, paired=True)


def test_paired_stability_draws_pairs_together():
    """What a pair shares cancels in every draw of pairs, and in no draw of single prompts."""
    rng = np.random.default_rng(4)
    common = rng.normal(0, 50, (10, 2, 8))
    positive = common.copy()
    positive[:, 1, 3] += 1 + rng.normal(0, 0.01, 10)
    data = analysis.Recordings(positive, common)
    paired = analysis.stability(data, k=1, n_bootstrap=50, n_halves=20, paired=True)
    assert [(x.layer, x.index) for x in paired.circuit] == [(1, 3)]
    assert paired.frequency.tolist() == [1.0] and (paired.half_jaccard == 1).all()
    assert 0.98 < paired.delta_low[0] < paired.delta_high[0] < 1.02
    assert analysis.stability(data, k=1, n_bootstrap=50, n_halves=20).frequency[0] < 0.5
