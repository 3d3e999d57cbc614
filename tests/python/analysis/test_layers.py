"""Layers by |delta| beside layers by contribution, against NumPy on grids and plain hooks."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
from cna import analysis
from cna.circuits.layer_table import LAYER_COLUMNS, layers_sentence
from conftest import PROMPTS, make_hf, make_tokenizer
from contribution_oracle import contribution_parts

K = 9
SETS = PROMPTS[:4], PROMPTS[4:]


def top(scores: np.ndarray, k: int, left_out: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The k places of the largest |scores|, in NumPy."""
    order = sorted(np.ndindex(*scores.shape), key=lambda p: (-abs(scores[p]), p))
    return set([p for p in order if p not in left_out][:k])


def places(circuit: cna.Circuit | None) -> set[tuple[int, int]]:
    assert circuit is not None
    return {(n.layer, n.index) for n in circuit}


def blind(monkeypatch: pytest.MonkeyPatch) -> cna.Model:
    """A model whose norms were not found, so that it does not know its weights."""
    monkeypatch.setattr("cna.hosts.live.readout_of", lambda *_: None)
    return cna.live(make_hf(), make_tokenizer(), model_id="blind")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_circuits_and_sums_are_those_of_numpy(family: str) -> None:
    model = cna.live(make_hf(family), make_tokenizer())
    parts = contribution_parts(
        make_hf(family), family, (model.tokenize(SETS[0]), model.tokenize(SETS[1]))
    )
    score, converted = parts.score(0.05), parts.delta * parts.along
    # The strongest of each ranking are kept out of all, as universal neurons are.
    out = (
        top(parts.delta, 1, set()) | top(np.maximum(score, 0), 1, set()) | top(converted, 1, set())
    )
    universal = cna.UniversalNeurons(tuple(sorted(out)), 10, 0.8, 0.001, "")
    found = analysis.layers_by_ranking(
        model, *SETS, k=K, universal=universal, penalty=0.05, progress=False
    )
    expected = {
        "delta": (found.by_delta, parts.delta),
        "converted": (found.by_converted, converted),
        "contribution": (found.by_contribution, np.maximum(score, 0)),
    }
    table = found.table
    for name, (circuit, grid) in expected.items():
        chosen = top(grid, K, out)
        assert places(circuit) == chosen, name
        counts = np.bincount([layer for layer, _ in chosen], minlength=model.n_layers)
        assert table[f"{name}_count"].tolist() == counts.tolist()
        sums = np.abs(grid).sum(1)
        np.testing.assert_allclose(table[f"{name}_sum"], sums, rtol=2e-3, atol=1e-6)
    assert found.missing == "" and tuple(table.columns) == LAYER_COLUMNS
    for n in found.by_contribution or []:
        assert n.delta == pytest.approx(parts.delta[n.layer, n.index], rel=1e-3, abs=1e-5)


def test_the_circuits_are_those_of_discover(tiny: cna.Model) -> None:
    found = analysis.layers_by_ranking(tiny, *SETS, k=K, progress=False)
    for circuit, ranking in (
        (found.by_delta, "mean_difference"),
        (found.by_contribution, "contribution"),
    ):
        assert circuit is not None
        want = cna.discover(tiny, *SETS, k=K, ranking=ranking, progress=False)
        assert circuit == want
        assert circuit.provenance == want.provenance
        assert circuit.universal_removed == want.universal_removed
    u = tiny.core.contribution_parts(*map(tiny.tokenize, SETS)).direction
    want = cna.discover(
        tiny, *SETS, k=K, ranking="direction", direction=u, direction_layer=3, side="both"
    )
    assert found.by_converted is not None and found.by_converted.neurons == want.neurons
    got, expected = dict(found.by_converted.provenance), dict(want.provenance)
    # A direction is made a unit vector once more: the last digit may differ.
    assert got.pop("coverage") == pytest.approx(expected.pop("coverage"), rel=1e-12)
    assert got == expected


def test_without_a_penalty_and_with_few_positive_scores(tiny: cna.Model) -> None:
    none = analysis.layers_by_ranking(tiny, *SETS, k=K, universal=None, penalty=0.0, progress=False)
    want = cna.discover(
        tiny, *SETS, k=K, universal=None, ranking="contribution", penalty=0.0, progress=False
    )
    assert places(none.by_contribution) == places(want)
    dear = analysis.layers_by_ranking(tiny, *SETS, k=K, universal=None, penalty=1e5, progress=False)
    assert dear.by_contribution is not None and len(dear.by_contribution) == 0
    assert len(dear.by_delta) == K and dear.table["contribution_sum"].tolist() == [0.0] * 4
    assert np.isnan(dear.late["contribution_sum"]).all()
    assert "0 of 0 neurons by contribution" in str(dear)


def test_steering_is_looked_through(tiny: cna.Model) -> None:
    circuit = cna.discover(tiny, *SETS, k=40, universal=None, progress=False)
    with tiny.steer(circuit, multiplier=0.0):
        steered = analysis.layers_by_ranking(tiny, *SETS, k=K, universal=None, progress=False)
    assert len(steered.by_delta & circuit) == 0
    assert steered.by_contribution is not None and len(steered.by_contribution & circuit) == 0


def test_a_model_that_does_not_know_its_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = analysis.layers_by_ranking(blind(monkeypatch), *SETS, k=K, progress=False)
    assert found.by_contribution is found.by_converted is found.contribution_sum is None
    assert "expected a model that knows its write vectors, got 'blind'" in found.missing
    assert "\n" not in found.missing and found.missing in str(found)
    table = found.table
    assert table["delta_count"].sum() == K and table["contribution_count"].isna().all()
    assert analysis.late_shares(table)["contribution_count"].isna().all()
    assert "by contribution" not in layers_sentence(table)
    assert "No contributions" in found._repr_html_()


def test_late_shares_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for layers in (1, 2, 3, 4, 9, 30):
        grids = {c: rng.random((layers, 5)) for c in LAYER_COLUMNS[1:]}
        table = pd.DataFrame({"layer": range(layers)} | {c: g.sum(1) for c, g in grids.items()})
        got = analysis.late_shares(table)
        assert got["layers"].tolist() == [min(3, layers), max(1, layers // 4)]
        for row in got.to_dict("records"):
            assert row["even"] == pytest.approx(row["layers"] / layers)
            for c, grid in grids.items():
                assert row[c] == pytest.approx(grid[-row["layers"] :].sum() / grid.sum())


def test_bad_arguments_are_named(tiny: cna.Model) -> None:
    with pytest.raises(ValueError, match=r"^layers_by_ranking: expected k between 1 and 256"):
        analysis.layers_by_ranking(tiny, *SETS, k=257)
    with pytest.raises(ValueError, match=r"^layers_by_ranking: expected two sets .* that differ"):
        analysis.layers_by_ranking(tiny, PROMPTS, PROMPTS)
    with pytest.raises(ValueError, match=r"^layers_by_ranking: expected universal="):
        analysis.layers_by_ranking(tiny, *SETS, universal="all")
    with pytest.raises(ValueError, match="expected a penalty from 0 on"):
        analysis.layers_by_ranking(tiny, *SETS, penalty=-1.0, progress=False)
    whole = analysis.layers_by_ranking(tiny, *SETS, k=K, universal=None, progress=False).table
    with pytest.raises(ValueError, match=r"^late_shares: expected a table .* without delta_sum"):
        analysis.late_shares(whole.drop(columns=["delta_sum"]))
    with pytest.raises(ValueError, match=r"^late_shares: expected a table .* got no rows"):
        analysis.late_shares(whole.iloc[:0])


def test_base_against_instruct_stands_beside_the_same_by_contribution(
    tiny: cna.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"k": K, "universal": None, "progress": False}
    both = analysis.base_against_instruct(tiny, tiny, *SETS, **options)
    table = both.table.set_index(["ranking", "circuit"])
    assert len(table) == 6
    circuits = [
        cna.discover(tiny, *SETS, chat=chat, ranking="contribution", **options)
        for chat in (False, None)
    ]
    overlap = analysis.compare_circuits(*circuits)
    assert table.loc[("contribution", "both"), "neurons"] == overlap.shared
    assert table.loc[("contribution", "both"), "jaccard"] == pytest.approx(overlap.jaccard)
    for name, circuit in zip(("base", "instruct"), circuits, strict=True):
        want = analysis.concentration(circuit).last_three
        assert table.loc[("contribution", name), "last_three"] == pytest.approx(want)
    other = analysis.base_against_instruct(tiny, tiny, *SETS, ranking="effect_size", **options)
    assert other.base_layers is None and set(other.table["ranking"]) == {"effect_size"}
    half = analysis.base_against_instruct(tiny, blind(monkeypatch), *SETS, **options)
    assert set(half.table["ranking"]) == {"mean_difference"}
