"""Operations beside scaling, and the gate: against plain hooks on the Hugging Face module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import numpy as np
import pytest
import torch
from cna.circuits.operation import load_steering, save_steering
from cna.ship.control_vector import load_control_vector
from conftest import PROMPTS, down_projections, make_hf, make_tokenizer

K = 9


@pytest.fixture(scope="module")
def hf() -> Any:
    return make_hf()


@pytest.fixture(scope="module")
def model(hf: Any) -> cna.Model:
    return cna.live(hf, make_tokenizer())


@pytest.fixture(scope="module")
def circuit(model: cna.Model) -> cna.Circuit:
    return cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=K, universal=None, progress=False)


def with_hooks(hf: Any, circuit: cna.Circuit, ids: list[int], change: Any) -> torch.Tensor:
    """Logits behind a prompt, where change(neuron, a) replaces each neuron of the circuit."""
    hooks = []
    for layer, down in enumerate(down_projections(hf, "llama")):
        mine = [n for n in circuit if n.layer == layer]

        def edit(_: Any, args: Any, mine: Any = mine) -> Any:
            a = args[0].clone()
            for n in mine:
                a[..., n.index] = change(n, a[..., n.index])
            return (a,)

        hooks.append(down.register_forward_pre_hook(edit))
    try:
        with torch.inference_mode():
            return hf(torch.tensor([ids])).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, -2.0])
def test_operations_are_those_of_plain_hooks(
    hf: Any, model: cna.Model, circuit: cna.Circuit, c: float
) -> None:
    target = cna.mean_activations(model, PROMPTS[4:], progress=False)
    assert torch.allclose(target, model.record(PROMPTS[4:]).double().mean(0), atol=1e-6)
    ids = model.tokenize(PROMPTS)

    def shifted(n: cna.Neuron, a: torch.Tensor) -> torch.Tensor:
        return a - c * n.delta

    def moved(n: cna.Neuron, a: torch.Tensor) -> torch.Tensor:
        return a + c * (float(target[n.layer, n.index]) - a)

    for operation, change in (
        (cna.Operation.shift(circuit), shifted),
        (cna.Operation.towards(circuit, target), moved),
        (cna.Operation.scale(circuit), lambda n, a: c * a),
    ):
        with model.steer(operation, c):
            got = model.logits(PROMPTS, progress=False)
        expected = torch.stack([with_hooks(hf, circuit, row, change) for row in ids])
        assert torch.allclose(got, expected, atol=2e-5, rtol=1e-4), operation.name
        if c == operation.neutral:
            assert got.equal(model.logits(PROMPTS, progress=False))


def test_a_strength_a_row(model: cna.Model, circuit: cna.Circuit) -> None:
    shift = cna.Operation.shift(circuit)
    strengths = [0.0, 1.0, 2.0, 1.0]
    with model.steer(shift, strengths):
        together = model.logits(PROMPTS[:4], progress=False)
    for i, c in enumerate(strengths):
        with model.steer(shift, c):
            alone = model.logits([PROMPTS[i]], progress=False)
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_shifting_a_whole_layer_is_the_mlps_part_of_caa(model: cna.Model) -> None:
    """The sparse-to-dense curve ends at CAA on that layer's MLP output."""
    delta = model.record(PROMPTS[:4]).double().mean(0) - model.record(PROMPTS[4:]).double().mean(0)
    layer = 1
    whole = cna.Circuit(
        (model.n_layers, model.width),
        [cna.Neuron(layer, i, float(delta[layer, i])) for i in range(model.width)],
    )
    vector = cna.caa_mlp(model, PROMPTS[:4], PROMPTS[4:], progress=False)
    one = cna.SteeringVector({layer: vector.vectors[layer]}, "mlp_output")
    with model.steer(cna.Operation.shift(whole), 0.7):
        sparse = model.logits(PROMPTS, progress=False)
    with model.steer(one, -0.7):
        dense = model.logits(PROMPTS, progress=False)
    assert torch.allclose(sparse, dense, atol=2e-5)


def test_a_shift_is_exact_as_a_control_vector(
    model: cna.Model, circuit: cna.Circuit, tmp_path: Path
) -> None:
    late = cna.Circuit(circuit.shape, [n for n in circuit if n.layer > 0])
    assert len(late) > 0
    shift = cna.Operation.shift(late)
    done = cna.convert(shift, model, tmp_path / "shift.gguf", format="control-vector", quiet=True)
    vectors = load_control_vector(done.path)
    assert sorted(vectors) == sorted({n.layer for n in late})
    served = cna.Intervention(1)
    for layer, vector in vectors.items():
        served = served.then(cna.Intervention.add("residual", layer, vector, [0.8]))
    with model.steer(served):
        got = model.logits(PROMPTS, progress=False)
    with model.steer(shift, 0.8):
        expected = model.logits(PROMPTS, progress=False)
    assert torch.allclose(got, expected, atol=2e-5)


def test_what_no_file_holds_is_refused(
    model: cna.Model, circuit: cna.Circuit, tmp_path: Path
) -> None:
    target = torch.zeros(model.n_layers, model.width, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^convert: expected an operation that a file can hold"):
        cna.convert(cna.Operation.towards(circuit, target), model, tmp_path / "x", format="hf")
    shift = cna.Operation.shift(circuit)
    for format in ("hf", "peft", "gguf", "gguf-lora"):
        with pytest.raises(ValueError, match=r"^convert: expected format='control-vector'"):
            cna.convert(shift, "smollm2", tmp_path / "x", format=format)
    with pytest.raises(ValueError, match=r"^convert: expected the model of cna.load or cna.live"):
        cna.convert(shift, "llama", tmp_path / "x", format="control-vector")
    normed = cna.live(make_hf("gemma2"), make_tokenizer())
    with pytest.raises(RuntimeError, match=r"^shift: expected a model that adds its MLPs' outputs"):
        own = cna.Circuit((normed.n_layers, normed.width), [cna.Neuron(1, 0, 1.0)])
        cna.convert(cna.Operation.shift(own), normed, tmp_path / "x", format="control-vector")
    assert not (tmp_path / "x").exists()


def test_operations_refuse_what_they_cannot_do(model: cna.Model, circuit: cna.Circuit) -> None:
    with pytest.raises(
        ValueError, match=r"^Operation: expected scale, shift, towards, got 'clamp'"
    ):
        cna.Operation(circuit, "clamp")
    with pytest.raises(ValueError, match=r"^Operation: expected a target for 'towards'"):
        cna.Operation(circuit, "towards")
    with pytest.raises(ValueError, match=r"^towards: expected means of"):
        cna.Operation.towards(circuit, torch.zeros(1, 2)).intervention([1.0])
    with pytest.raises(ValueError, match=r"^steer: expected finite strengths"):
        with model.steer(cna.Operation.shift(circuit), float("nan")):
            pass
    other = cna.Circuit((model.n_layers, model.width + 1), [cna.Neuron(0, 0, 1.0)])
    with pytest.raises(ValueError):
        with model.steer(cna.Operation.shift(other), 1.0):
            pass


def test_a_run_folder_keeps_what_was_chosen(
    model: cna.Model, circuit: cna.Circuit, tmp_path: Path
) -> None:
    target = cna.mean_activations(model, PROMPTS[4:], progress=False)
    for operation in (
        cna.Operation.scale(circuit),
        cna.Operation.shift(circuit),
        cna.Operation.towards(circuit, target),
    ):
        save_steering(operation, 0.25, tmp_path)
        again, strength = load_steering(tmp_path)
        assert (again.name, strength, again.circuit) == (operation.name, 0.25, circuit)
        assert again.intervention([0.25]).digest == operation.intervention([0.25]).digest
    assert load_steering(tmp_path / "circuit.json") == (cna.Operation(circuit), None)
    (tmp_path / "steering.json").write_text('{"operation": "towards"}')
    with pytest.raises(ValueError, match=r"^load_steering: expected operation, strength"):
        load_steering(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_steering(tmp_path / "nothing.json")


def test_a_gate_scores_as_numpy_does(model: cna.Model, circuit: cna.Circuit) -> None:
    positive, negative = PROMPTS[:4], PROMPTS[4:]
    gate = cna.fit_gate(model, circuit, positive, negative, false_positives=0.3, progress=False)
    a = model.record(PROMPTS, progress=False).double().numpy()
    places = [(n.layer, n.index) for n in circuit]
    sign = np.sign([n.delta for n in circuit])
    values = np.stack([a[:, layer, index] for layer, index in places], 1)
    z = (values - values.mean(0)) / values.std(0)
    expected = (z * sign).sum(1)
    got = np.array(gate.scores(model.core, model.tokenize(PROMPTS)))
    assert np.allclose(got, expected, rtol=1e-4, atol=1e-4)
    passes = expected > gate.threshold
    assert passes[4:].mean() == gate.false_positives <= 0.3
    assert passes[:4].mean() == gate.true_positives
    falling = np.sort(expected[4:])[::-1]
    assert gate.threshold >= falling[int(0.3 * len(falling))]  # no lower one keeps to the share


def test_only_prompts_that_pass_are_steered(model: cna.Model, circuit: cna.Circuit) -> None:
    gate = cna.fit_gate(model, circuit, PROMPTS[:4], PROMPTS[4:], progress=False)
    ids = model.tokenize(PROMPTS)
    passes = [score > gate.threshold for score in gate.scores(model.core, ids)]
    assert any(passes) and not all(passes)
    plain = model.generate(PROMPTS, 6, return_tokens=True, progress=False)
    with model.steer(circuit, -4.0):
        steered = model.generate(PROMPTS, 6, return_tokens=True, progress=False)
    with model.steer(circuit, -4.0, gate=gate):
        got = model.generate(PROMPTS, 6, return_tokens=True, progress=False)
        logits = model.logits(PROMPTS, progress=False)
    for i, passed in enumerate(passes):
        assert got[i] == (steered if passed else plain)[i]
    unsteered = model.logits(PROMPTS, progress=False)
    for i, passed in enumerate(passes):
        assert logits[i].equal(unsteered[i]) != passed
    # Per-row strengths, and a block outside, which is there for all prompts.
    strengths = [float(i) for i in range(len(PROMPTS))]
    with model.steer(circuit, 0.5), model.steer(circuit, strengths, gate=gate):
        both = model.logits(PROMPTS, progress=False)
    with model.steer(circuit, 0.5):
        outer = gate.scores(model.core, ids, intervention=cna.Intervention.scale(circuit, [0.5]))
        mine = [s if x > gate.threshold else 1.0 for s, x in zip(strengths, outer, strict=True)]
        with model.steer(circuit, mine):
            assert torch.allclose(both, model.logits(PROMPTS, progress=False), atol=1e-5)


def test_a_gate_says_where_it_cannot_decide(model: cna.Model, circuit: cna.Circuit) -> None:
    gate = cna.fit_gate(model, circuit, PROMPTS[:4], PROMPTS[4:], progress=False)
    with model.steer(circuit, 0.0, gate=gate):
        with pytest.raises(ValueError, match=r"^steer: expected generate, logits or record inside"):
            cna.discover(model, PROMPTS[:4], PROMPTS[4:], progress=False)
    with pytest.raises(ValueError, match=r"^gate: expected a circuit with neurons"):
        cna.fit_gate(model, cna.Circuit(circuit.shape, []), PROMPTS[:4], PROMPTS[4:])
    with pytest.raises(ValueError, match=r"^threshold: expected .* a share from 0 to below 1"):
        cna.fit_gate(model, circuit, PROMPTS[:4], PROMPTS[4:], false_positives=1.0, progress=False)
