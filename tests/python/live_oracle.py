"""What a live model has to equal: plain forward passes and hooks, one prompt at a time, no cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import cna
import numpy as np
import torch
from conftest import PROMPTS, make_tokenizer, oracle_top_k

K = 9


@contextlib.contextmanager
def hooked(downs: list[Any], hook: Any) -> Iterator[None]:
    handles = [
        m.register_forward_pre_hook(lambda _, args, layer=i: hook(layer, args[0]))
        for i, m in enumerate(downs)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_logits(hf: Any, ids: list[list[int]]) -> torch.Tensor:
    """[prompts, vocab]; the head sees the last token alone, as in transformers' generate."""
    with torch.inference_mode():
        rows = [hf(input_ids=torch.tensor([p]), logits_to_keep=1).logits[0, -1] for p in ids]
    return torch.stack(rows).float()


def recordings(hf: Any, downs: list[Any], ids: list[list[int]]) -> np.ndarray:
    """[prompts, layers, width] from plain hooks."""
    rows: list[torch.Tensor] = []
    with hooked(downs, lambda _, x: rows.append(x.reshape(-1, x.shape[-1])[-1].float().clone())):
        last_logits(hf, ids)
    return torch.stack(rows).reshape(len(ids), len(downs), -1).numpy()


def greedy(hf: Any, prompt: list[int], n: int, end: int) -> list[int]:
    """Whole prompts again and again."""
    answer: list[int] = []
    while len(answer) < n:
        token = int(last_logits(hf, [prompt + answer]).argmax())
        if token == end:
            break
        answer.append(token)
    return answer


def close(got: Any, expected: Any, tolerance: float) -> bool:
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def equals_plain_hooks(
    model: cna.Model, hf: Any, downs: list[Any], tolerance: float = 1e-4, **run: Any
) -> cna.Circuit:
    """Asserts that recordings, logits, discovery, steering and generation are those of `hf`."""
    ids = make_tokenizer().apply_chat_template([[{"role": "user", "content": p}] for p in PROMPTS])
    ids = [list(row) for row in ids["input_ids"]]
    plain = recordings(hf, downs, ids)
    assert close(model.record(ids, **run), plain, tolerance)
    assert close(model.logits(ids, **run), last_logits(hf, ids), tolerance)
    circuit = cna.discover(model, ids[:4], ids[4:], k=K, universal=None, **run)
    if tolerance <= 1e-4:
        assert [(n.layer, n.index) for n in circuit] == oracle_top_k(plain[:4], plain[4:], K)

    def ablate(layer: int, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., [n.index for n in circuit if n.layer == layer]] *= -1.5
        return x

    end = model.core.eos_ids[0]
    unsteered = model.logits(ids, **run)
    with hooked(downs, ablate):
        steered = last_logits(hf, ids)
        answers = [greedy(hf, p, 6, end) for p in ids[:3]]
    assert not close(steered, unsteered, 1e-3)
    with model.steer(circuit, -1.5):
        assert close(model.logits(ids, **run), steered, tolerance)
        assert model.generate(ids[:3], max_new_tokens=6, return_tokens=True, **run) == answers
    with model.steer(circuit, 1.0):
        assert torch.equal(model.logits(ids, **run), unsteered)
    return circuit
