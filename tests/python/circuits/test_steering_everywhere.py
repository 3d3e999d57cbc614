"""Inside a `steer` block everything sees the steered model: against plain hooks on the module."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
import torch
from cna import judges
from cna.tasks import Task
from conftest import PROMPTS, down_projections, hf_generate, hf_record
from reference import log_probabilities, scaled_neurons

M = -1.5
SIDES = PROMPTS[:4], PROMPTS[4:]


@pytest.fixture(scope="module")
def circuit(tiny: cna.Model) -> cna.Circuit:
    """Neurons of the first layers, so that all later ones feel them."""
    rng = np.random.default_rng(4)
    places = rng.choice(2 * tiny.width, 30, replace=False)
    neurons = [cna.Neuron(*divmod(int(p), tiny.width), 1.0) for p in places]
    return cna.Circuit((tiny.n_layers, tiny.width), neurons)


def digest(circuit: cna.Circuit, m: float) -> str:
    return cna.Intervention.scale(circuit, [m]).digest


def close(got: Any, expected: np.ndarray) -> None:
    assert np.abs(np.asarray(got, np.float64) - expected).max() <= 1e-4 * np.abs(expected).max()


def states(hf: Any, ids: list[list[int]]) -> np.ndarray:
    """Residual stream behind each layer but the last, at the last token, [prompts, layers, hidden]."""
    out = []
    for prompt in ids:
        with torch.inference_mode():
            hidden = hf(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        out.append(np.stack([h[0, -1].double().numpy() for h in hidden[1:-1]]))
    return np.stack(out)


def mlp_outputs(hf: Any, ids: list[list[int]]) -> np.ndarray:
    rows: list[list[np.ndarray]] = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: rows[-1].append(out[0, -1].double().numpy()))
        for m in down_projections(hf)
    ]
    for prompt in ids:
        rows.append([])
        with torch.inference_mode():
            hf(torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    return np.array(rows)


def test_vectors_are_those_of_the_steered_model(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit
) -> None:
    ids = [tiny.tokenize(side) for side in SIDES]
    with scaled_neurons(tiny_hf, circuit, M):
        residual = states(tiny_hf, ids[0]).mean(0) - states(tiny_hf, ids[1]).mean(0)
        outputs = mlp_outputs(tiny_hf, ids[0]).mean(0) - mlp_outputs(tiny_hf, ids[1]).mean(0)
    with tiny.steer(circuit, M):
        vector, everywhere = cna.caa(tiny, *SIDES), cna.caa_mlp(tiny, *SIDES)
    for layer in range(tiny.n_layers - 1):
        close(vector.vectors[layer], residual[layer])
    for layer in range(tiny.n_layers):
        close(everywhere.vectors[layer], outputs[layer])
    plain = cna.caa(tiny, *SIDES)
    assert not torch.allclose(plain.vectors[2], vector.vectors[2], rtol=1e-2)
    assert plain.provenance["steering_active"] == []
    assert vector.provenance["steering_active"] == [digest(circuit, M)]
    assert plain.provenance["prompt_hash"] == vector.provenance["prompt_hash"]


def universal_by_hand(hf: Any, ids: list[list[int]], share: float, fraction: float) -> set[Any]:
    rows = np.abs(hf_record(hf, ids))
    n = max(1, round(fraction * rows[0].size))
    counts = np.zeros(rows[0].size, int)
    for row in rows.reshape(len(ids), -1):
        counts[np.argsort(-row, kind="stable")[:n]] += 1
    least = int(np.ceil(share * len(ids)))
    return {divmod(int(p), rows.shape[2]) for p in np.flatnonzero(counts >= least)}


def test_universal_neurons_are_counted_anew_in_each_block(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit
) -> None:
    prompts = [f"{p} {i}" for i, p in enumerate(PROMPTS * 2)]
    ids = tiny.tokenize(prompts)
    settings = {"share": 0.5, "top_fraction": 0.05}
    plain = cna.universal_neurons(tiny, prompts, **settings)
    assert set(plain.neurons) == universal_by_hand(tiny_hf, ids, 0.5, 0.05)
    with tiny.steer(circuit, 9.0), scaled_neurons(tiny_hf, circuit, 9.0):
        loud = cna.universal_neurons(tiny, prompts, **settings)
        assert set(loud.neurons) == universal_by_hand(tiny_hf, ids, 0.5, 0.05)
    assert loud.neurons != plain.neurons
    # The built-in prompts are counted once for each steering, and never mixed up.
    default = cna.universal_neurons(tiny, **settings)
    with tiny.steer(circuit, 9.0):
        inside = cna.universal_neurons(tiny, **settings)
        assert cna.universal_neurons(tiny, **settings) is inside
    assert cna.universal_neurons(tiny, **settings) is default
    assert inside.neurons != default.neurons


def test_a_circuit_says_what_was_steered_while_it_was_found(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit
) -> None:
    plain = cna.discover(tiny, *SIDES, k=10, universal=None)
    assert plain.provenance["steering_active"] == []
    with tiny.steer(circuit, M), scaled_neurons(tiny_hf, circuit, M):
        found = cna.discover(tiny, *SIDES, k=10, universal=None)
        rows = [hf_record(tiny_hf, tiny.tokenize(s)).astype(np.float64).mean(0) for s in SIDES]
    order = np.argsort(-np.abs(rows[0] - rows[1]).ravel(), kind="stable")[:10]
    assert [(n.layer, n.index) for n in found] == [divmod(int(p), tiny.width) for p in order]
    assert found.provenance["steering_active"] == [digest(circuit, M)]
    with tiny.steer(circuit, 2.0):
        other = cna.discover(tiny, *SIDES, k=10, universal=None)
    assert other.provenance["steering_active"] == [digest(circuit, 2.0)] != [digest(circuit, M)]


def test_a_sweep_measures_the_steered_model(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, tmp_path: Any
) -> None:
    judge = judges.CallableJudge("even", lambda answer: len(answer) % 2 == 0)
    evaluation, benign = [f"Go to {i}." for i in range(3)], ["Say one.", "Say two."]
    task = Task("toy", "toy", *SIDES, evaluation, benign, judge)
    inner = cna.discover(tiny, *SIDES, k=8, universal=None)
    settings: dict[str, Any] = {"quiz_questions": 0, "max_new_tokens": 5, "progress": False}
    with tiny.steer(circuit, M):
        result = cna.sweep(tiny, inner, task, [0.0], [], **settings, out=tmp_path)
    assert result.settings["steering_active"] == [digest(circuit, M)]
    for strength in (1.0, 0.0):
        rows = result.answers[(result.answers.set == "evaluation")]
        rows = rows[rows.strength == strength].sort_values("index")
        with scaled_neurons(tiny_hf, circuit, M), scaled_neurons(tiny_hf, inner, strength):
            said = [hf_generate(tiny_hf, ids, 5) for ids in tiny.tokenize(evaluation)]
        assert list(rows.answer) == [tiny.decode(t) for t in said]
    with scaled_neurons(tiny_hf, circuit, M):
        kl = []
        answers = [hf_generate(tiny_hf, ids, 5) for ids in tiny.tokenize(benign)]
        for ids, answer in zip(tiny.tokenize(benign), answers, strict=True):
            base = log_probabilities(tiny_hf, ids, answer)
            with scaled_neurons(tiny_hf, inner, 0.0):
                kl.append(
                    float(
                        (base.exp() * (base - log_probabilities(tiny_hf, ids, answer)))
                        .sum(-1)
                        .mean()
                    )
                )
    ablated = result.table[result.table.strength == 0].iloc[0]
    assert ablated.kl_benign == pytest.approx(np.mean(kl), abs=1e-4)
    with pytest.raises(ValueError, match="belong to this run"):  # not steered: another run
        cna.sweep(tiny, inner, task, [0.0], [], **settings, out=tmp_path)


def test_one_strength_per_prompt_is_refused_where_prompts_are_many(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    with tiny.steer(circuit, [0.0, 1.0]):
        for call in (
            lambda: cna.caa(tiny, *SIDES),
            lambda: cna.caa_mlp(tiny, *SIDES),
            lambda: cna.universal_neurons(tiny, PROMPTS * 2),
        ):
            with pytest.raises(ValueError, match="one strength per prompt"):
                call()
