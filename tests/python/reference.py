"""The plain way, once for all tests: hooks that scale neurons, and log probabilities of a whole pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import cna
import torch
from conftest import down_projections

# A sweep that measures little.
FEW: dict[str, Any] = {
    "max_new_tokens": 5,
    "kl_prompts": 1,
    "perplexity": False,
    "relevance_prompts": 0,
    "quiz_questions": 0,
    "progress": False,
}


@contextlib.contextmanager
def scaled_neurons(hf: Any, circuit: cna.Circuit, m: float, start: int = 0) -> Iterator[None]:
    """The circuit's neurons times m, from token `start` of each text on.

    First of the hooks on a module: what another test's hook reads comes behind the scaling.
    """
    handles = []
    for layer, module in enumerate(down_projections(hf)):
        indices = [n.index for n in circuit if n.layer == layer]

        def scale(_: Any, args: Any, indices: list[int] = indices) -> Any:
            x = args[0].clone()
            x[..., start:, indices] *= m
            return (x, *args[1:])

        handles.append(module.register_forward_pre_hook(scale, prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def log_probabilities(hf: Any, prompt: list[int], rest: list[int]) -> torch.Tensor:
    """Of each token of `rest` behind `prompt`, float64 [tokens, vocab]."""
    with torch.inference_mode():
        logits = hf(torch.tensor([prompt + rest])).logits[0]
    return logits[len(prompt) - 1 : -1].double().log_softmax(-1)
