"""Steering scales the named neurons, everywhere, and nothing else."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS, down_projections, hf_generate, make_hf
from reference import scaled_neurons


def greedy(hf: Any, ids: list[list[int]], n: int) -> list[list[int]]:
    return [hf_generate(hf, prompt, n) for prompt in ids]


def test_multiplier_one_and_an_empty_circuit_are_the_model_bit_for_bit(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    plain, answers = tiny.logits(PROMPTS), tiny.generate(PROMPTS, max_new_tokens=8)
    empty = cna.Circuit(circuit.shape, [])
    for what, m in [(circuit, 1.0), (empty, 0.0), (empty, -3.0)]:
        with tiny.steer(what, m):
            assert torch.equal(tiny.logits(PROMPTS), plain)
            assert tiny.generate(PROMPTS, max_new_tokens=8) == answers


@pytest.mark.parametrize("multiplier", [0.0, -1.0, 0.5, 2.0])
def test_steered_logits_equal_plain_hooks(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, multiplier: float
) -> None:
    ids = tiny.tokenize(PROMPTS)
    with scaled_neurons(tiny_hf, circuit, multiplier), torch.inference_mode():
        expected = torch.stack([tiny_hf(torch.tensor([p])).logits[0, -1] for p in ids])
    with tiny.steer(circuit, multiplier):
        one = tiny.logits(PROMPTS, batch_size=1, share_prefix=False)
        many = tiny.logits(PROMPTS)
    assert (one - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (many - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("multiplier", [1.0, 0.0, -1.0])
def test_greedy_answers_equal_hugging_face_with_hooks(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit, multiplier: float
) -> None:
    ids = tiny.tokenize(PROMPTS)
    with scaled_neurons(tiny_hf, circuit, multiplier):
        expected = greedy(tiny_hf, ids, 10)
    with tiny.steer(circuit, multiplier):
        assert tiny.generate(ids, max_new_tokens=10, return_tokens=True) == expected


def test_ablation_equals_zeroed_down_projection_columns(
    tiny: cna.Model, tiny_hf: Any, circuit: cna.Circuit
) -> None:
    folded = copy.deepcopy(tiny_hf)
    modules = down_projections(folded)
    for neuron in circuit:
        modules[neuron.layer].weight.data[:, neuron.index] = 0.0
    ids = tiny.tokenize(PROMPTS)
    with torch.inference_mode():
        expected = torch.stack([folded(torch.tensor([p])).logits[0, -1] for p in ids])
    with tiny.steer(circuit, 0.0):
        got = tiny.logits(PROMPTS, batch_size=1, share_prefix=False)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_one_strength_per_row_equals_one_run_per_strength(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    strengths = [0.0, 1.0, -1.0, 2.0, 0.5, 0.0, 3.0, 1.0]
    with tiny.steer(circuit, strengths):
        together = tiny.logits(PROMPTS)
        answers = tiny.generate(PROMPTS, max_new_tokens=8)
    for i, m in enumerate(strengths):
        with tiny.steer(circuit, m):
            alone = tiny.logits(PROMPTS)[i]
            assert tiny.generate(PROMPTS, max_new_tokens=8)[i] == answers[i]
        assert (together[i] - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_steering_ends_with_the_block_also_after_an_exception(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    plain = tiny.logits(PROMPTS)
    with pytest.raises(RuntimeError, match="stop here"), tiny.steer(circuit, 0.0):
        assert not torch.equal(tiny.logits(PROMPTS), plain)
        raise RuntimeError("stop here")
    assert torch.equal(tiny.logits(PROMPTS), plain)


def test_blocks_nest_and_multiply(tiny: cna.Model, circuit: cna.Circuit) -> None:
    with tiny.steer(circuit, 2.0), tiny.steer(circuit, 3.0):
        nested = tiny.logits(PROMPTS)
    with tiny.steer(circuit, 6.0):
        assert (tiny.logits(PROMPTS) - nested).abs().max() <= 1e-4 * nested.abs().max()
    per_row = [0.0, 1.0] * 4
    with tiny.steer(circuit, per_row), tiny.steer(circuit, 0.5):
        mixed = tiny.logits(PROMPTS)
    with tiny.steer(circuit, [m * 0.5 for m in per_row]):
        assert torch.allclose(tiny.logits(PROMPTS), mixed, rtol=0, atol=1e-5)


def test_set_and_mean_ablation_write_the_values(tiny: cna.Model, circuit: cna.Circuit) -> None:
    values = [0.25 * i for i in range(len(circuit))]
    with tiny.steer(cna.Intervention.set(circuit, values)):
        recorded = cna.record(tiny, PROMPTS)
    for neuron, value in zip(circuit, values, strict=True):
        assert torch.allclose(recorded[:, neuron.layer, neuron.index], torch.tensor(value))
    means = cna.record(tiny, PROMPTS).double().mean(0)
    with tiny.steer(cna.Intervention.mean_ablate(circuit, means)):
        recorded = cna.record(tiny, PROMPTS)
    for neuron in circuit:
        expected = means[neuron.layer, neuron.index].float()
        assert torch.allclose(recorded[:, neuron.layer, neuron.index], expected)


def test_adding_to_the_residual_stream_equals_a_layer_hook(tiny: cna.Model, tiny_hf: Any) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    ids = tiny.tokenize(PROMPTS)

    def add(_: Any, __: Any, output: Any) -> Any:
        return output - 1.5 * vector if torch.is_tensor(output) else (output[0] - 1.5 * vector,)

    handle = tiny_hf.model.layers[2].register_forward_hook(add)
    try:
        with torch.inference_mode():
            expected = torch.stack([tiny_hf(torch.tensor([p])).logits[0, -1] for p in ids])
    finally:
        handle.remove()
    with tiny.steer(cna.Intervention.add("residual", 2, vector, [-1.5])):
        got = tiny.logits(PROMPTS)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_recording_inside_a_block_sees_the_steered_model(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    with tiny.steer(circuit, 0.0):
        recorded = cna.record(tiny, PROMPTS)
    assert all((recorded[:, n.layer, n.index] == 0).all() for n in circuit)


def test_low_precision_rounds_once_as_a_hook_does(exports: Any) -> None:
    hf, model = make_hf("llama", torch.bfloat16), cna.load(exports("llama", torch.bfloat16))
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=12, universal=None)
    ids = model.tokenize(PROMPTS[:1])
    with scaled_neurons(hf, circuit, 0.3), torch.inference_mode():
        expected = hf(torch.tensor(ids), logits_to_keep=1).logits[0, -1].float()
    with model.steer(circuit, 0.3):
        assert torch.equal(model.logits(PROMPTS[:1], share_prefix=False)[0], expected)


def test_sampling_is_repeatable_and_independent_of_the_batch(tiny: cna.Model) -> None:
    draw = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "top_k": 50}
    first = tiny.generate(PROMPTS, seed=1, **draw, return_tokens=True)
    assert tiny.generate(PROMPTS, seed=1, **draw, batch_size=3, return_tokens=True) == first
    assert tiny.generate(PROMPTS, seed=2, **draw, return_tokens=True) != first


def test_sampling_follows_the_softmax(tiny: cna.Model) -> None:
    probabilities = torch.softmax(tiny.logits(PROMPTS[:1])[0].double() / 2.0, -1)
    n = 4000
    drawn = tiny.generate(
        PROMPTS[:1] * n, max_new_tokens=1, temperature=2.0, seed=3, return_tokens=True
    )
    counts = torch.zeros(len(probabilities), dtype=torch.double)
    for answer in drawn:
        counts[answer[0] if answer else 257] += 1
    top = probabilities.topk(5)
    for p, i in zip(top.values, top.indices, strict=True):
        assert abs(counts[i] / n - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_a_circuit_of_other_weights_is_said(exports: Any, tiny: cna.Model) -> None:
    """Base and tuned model have one shape; a commit and a hash say nothing of each other."""
    place = [cna.Neuron(1, 2, 1.0)]
    known = {"model_id": "base", "dtype": "float32", "weights_hash": tiny.core.weights_hash}
    for other, warned in (
        ({}, False),
        ({"weights_hash": "f" * 64}, True),
        ({"weights_hash": "f" * 64, "dtype": "bfloat16"}, False),
        ({"weights_hash": "f" * 40}, False),
    ):
        circuit = cna.Circuit((4, 64), place, known | other)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with tiny.steer(circuit, 0.0):
                pass
        assert [str(w.message).startswith("steer: the circuit was found on") for w in caught] == (
            [True] if warned else []
        )


def test_several_layers_of_caa_at_once_are_said(tiny: cna.Model) -> None:
    vectors = cna.SteeringVector({i: torch.ones(tiny.hidden_size) for i in (1, 2)})
    with pytest.warns(UserWarning, match=r"adds the vectors of 2 layers at once.*\.at\(layer\)"):
        vectors.intervention([0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors.at(1).intervention([0.5])
