"""A circuit in someone else's code: hooks on a plain module against cna's own steering."""

from __future__ import annotations

from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS, make_hf, make_tokenizer, random_ids
from live_oracle import close
from mixtures import mixture
from transformers import pipeline

IDS = random_ids([9, 3, 14, 6], seed=4)


def logits(hf: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in IDS])


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gemma3", "qwen2_moe", "gpt_oss", "llama4_text"]
)
@pytest.mark.parametrize("multiplier", [0.0, -1.5])
def test_a_plain_module_gives_the_logits_of_steering(family: str, multiplier: float) -> None:
    hf = make_hf(family) if family in ("llama", "gpt2", "gemma3") else mixture(family)
    model = cna.live(hf, None)
    circuit = cna.discover(model, IDS[:2], IDS[2:], k=30, universal=None, progress=False)
    before = logits(hf)
    with model.steer(circuit, multiplier):
        expected = model.logits(IDS, progress=False)
    hooks = sum(len(m._forward_pre_hooks) for m in hf.modules())
    with cna.steered(hf, circuit, multiplier) as same:
        assert same is hf and close(logits(hf), expected, 1e-4)
        assert not close(logits(hf), before, 1e-3)
    assert torch.equal(logits(hf), before)
    assert sum(len(m._forward_pre_hooks) for m in hf.modules()) == hooks


def test_a_pipeline_answers_steered() -> None:
    hf, tokenizer = make_hf("llama"), make_tokenizer()
    model = cna.live(hf, tokenizer)
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=30, universal=None, progress=False)
    pipe = pipeline("text-generation", model=hf, tokenizer=tokenizer)
    asked: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    with model.steer(circuit, 0.0):
        (expected,) = model.generate(["hello there"], 6, chat=False, progress=False)
    with cna.steered(hf, circuit, 0.0):
        assert pipe("hello there", **asked)[0]["generated_text"] == expected
    (plain,) = model.generate(["hello there"], 6, chat=False, progress=False)
    assert pipe("hello there", **asked)[0]["generated_text"] == plain


def test_the_strength_of_1_is_the_module_and_an_error_leaves_it_whole() -> None:
    hf = make_hf("llama")
    before = logits(hf)
    circuit = cna.Circuit((4, 64), [cna.Neuron(1, 3, 1.0)])
    with cna.steered(hf, circuit, 1.0):
        assert torch.equal(logits(hf), before)
    with pytest.raises(KeyError), cna.steered(hf, circuit):
        raise KeyError
    assert torch.equal(logits(hf), before)


def test_hooks_for_other_libraries_scale_the_circuits_neurons(circuit: cna.Circuit) -> None:
    hooks = circuit.to_hooks(0.5)
    assert [name for name, _ in hooks] == [
        f"blocks.{layer}.mlp.hook_post" for layer, n in enumerate(circuit.layer_counts) if n
    ]
    x = torch.randn(2, 5, 64)
    for name, hook in hooks:
        layer = int(name.split(".")[1])
        expected = x.clone()
        for neuron in circuit.in_layers(layer):
            expected[..., neuron.index] *= 0.5
        assert torch.equal(hook(x), expected) and torch.equal(hook(x, hook=None), expected)
    first = min(n.layer for n in circuit)
    assert circuit.to_hooks(names="h.{layer}")[0][0] == f"h.{first}"


def test_bad_requests_are_one_clear_line(circuit: cna.Circuit) -> None:
    hf = make_hf("llama")
    other = cna.Circuit((2, 8), [cna.Neuron(0, 1, 1.0)])
    mixed = cna.Circuit((1, 8), [cna.Neuron(0, 1, 1.0)], experts=[(2, 4)])
    cases: list[tuple[Any, str]] = [
        (lambda: cna.steered(hf, other).__enter__(), "steered: expected a circuit of 256 neurons"),
        (lambda: cna.steered(hf, "c.json").__enter__(), "steered: expected a Circuit, got str"),
        (lambda: cna.steered(hf, circuit[:0]).__enter__(), "steered: expected at least one neuron"),
        (lambda: circuit.to_hooks(float("nan")), "to_hooks: expected a finite multiplier"),
        (lambda: mixed.to_hooks(), "to_hooks: expected a circuit of a dense model"),
    ]
    for call, match in cases:
        with pytest.raises(ValueError, match=r"^" + match):
            call()
