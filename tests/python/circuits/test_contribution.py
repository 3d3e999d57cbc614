"""Ranking by contribution against NumPy in float64: plain hooks, and the checkpoint's own weights."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
from conftest import AOTI_ON_PUSH, PROMPTS, layers_of, make_hf, make_tokenizer
from contribution_oracle import reference

FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "olmo2")
K = 9


PAIRS = [(host, family) for host in ("live", "torchscript") for family in FAMILIES]
PAIRS += [
    pytest.param("aoti", f, marks=[] if f in AOTI_ON_PUSH else [pytest.mark.nightly])
    for f in FAMILIES
]


def open_host(host: str, family: str, exports: Any) -> cna.Model:
    if host == "live":
        return cna.live(make_hf(family), make_tokenizer())
    return cna.load(exports(family, format=host))


@pytest.mark.parametrize(("host", "family"), PAIRS)
def test_scores_are_those_of_numpy(host: str, family: str, exports: Any) -> None:
    hf, model = make_hf(family, layers=layers_of(family, host)), open_host(host, family, exports)
    sides = model.tokenize(PROMPTS[:4]), model.tokenize(PROMPTS[4:])
    for penalty in (0.0, 0.1):
        expected = reference(hf, family, sides, penalty)
        got = cna.contributions(model, *sides, penalty=penalty, progress=False).numpy()
        assert np.abs(got - expected).max() <= 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize("host", ["live", "torchscript", "aoti"])
def test_discover_takes_the_largest_and_says_how(host: str, exports: Any) -> None:
    model = open_host(host, "llama", exports)
    sides = model.tokenize(PROMPTS[:4]), model.tokenize(PROMPTS[4:])
    expected = reference(make_hf(), "llama", sides, 0.05)
    circuit = cna.discover(model, *sides, k=K, ranking="contribution", penalty=0.05, universal=None)
    best = np.argsort(-expected.ravel())[:K]
    places = {divmod(int(i), model.width) for i in best}
    assert {(n.layer, n.index) for n in circuit} == places  # a circuit's own order is by |delta|
    assert circuit.provenance["ranking"] == "contribution"
    assert circuit.provenance["penalty"] == 0.05
    delta = model.record(sides[0]).double().mean(0) - model.record(sides[1]).double().mean(0)
    for n in circuit:
        assert n.delta == pytest.approx(float(delta[n.layer, n.index]), rel=1e-4, abs=1e-6)


def test_the_linear_reading_predicts_what_an_ablation_does(capsys: Any) -> None:
    """Each neuron alone: what the score says against the move of the last stream along u."""
    hf = make_hf()
    model = cna.live(hf, make_tokenizer())
    sides = model.tokenize(PROMPTS[:4]), model.tokenize(PROMPTS[4:])
    parts = model.core.contribution_parts(*sides)
    score, u = parts.score(0.0), parts.direction
    layer = model.n_layers - 1
    plain = model.record(sides[0], site="residual")[:, layer].double() @ u
    predicted, measured = [], []
    for at in range(model.n_layers):
        for index in range(model.width):
            circuit = cna.Circuit((model.n_layers, model.width), [cna.Neuron(at, index)])
            with model.steer(circuit, 0.0):
                without = model.record(sides[0], site="residual", progress=False)[:, layer]
            predicted.append(float(score[at, index]))
            measured.append(float((plain - without.double() @ u).mean()))
    correlation = float(np.corrcoef(predicted, measured)[0, 1])
    last = slice(layer * model.width, None)
    assert np.allclose(predicted[last], measured[last], rtol=1e-3, atol=1e-5)  # nothing follows
    with capsys.disabled():
        print(
            f"\n{len(predicted)} neurons: correlation of prediction and ablation {correlation:.3f}"
        )
    assert len(predicted) >= 200
    assert correlation > 0.4  # random layers change a write much more than trained ones


def test_refusals(tiny: cna.Model) -> None:
    sides = PROMPTS[:4], PROMPTS[4:]
    with pytest.raises(ValueError, match=r"^contribution: expected a penalty from 0 on"):
        cna.contributions(tiny, *sides, penalty=-1.0)
    with pytest.raises(ValueError, match=r"^discover: expected ranking .* or 'direction'"):
        cna.discover(tiny, *sides, ranking="contributions")
    with pytest.raises(ValueError, match=r"^discover: expected \d+ neurons with a score"):
        cna.discover(tiny, *sides, ranking="contribution", fraction=1.0, universal=None)
