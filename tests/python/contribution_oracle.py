"""Contributions in NumPy float64: plain hooks, and the checkpoint's own weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from conftest import down_projections


def norm_of(hf: Any, family: str) -> tuple[np.ndarray, bool]:
    """(gain of the final norm, does it take the mean off?), by the family's own definition."""
    base = hf.base_model
    norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(family, "norm")
    weight = getattr(base, norm).weight.detach().double().numpy()
    return weight + ("gemma" in family), family in ("gpt2", "gpt_neox")


@dataclasses.dataclass
class Parts:
    """What a score is made of, each [layers, width]."""

    positive: np.ndarray  # mean a over the positive prompts
    negative: np.ndarray  # mean a over the negative ones
    magnitude: np.ndarray  # mean |a| over the negative ones
    along: np.ndarray  # write . u
    length: np.ndarray  # ||write||

    def score(self, penalty: float) -> np.ndarray:
        return self.positive * self.along - penalty * self.magnitude * self.length

    @property
    def delta(self) -> np.ndarray:
        return self.positive - self.negative


def reference(hf: Any, family: str, sides: tuple[Any, Any], penalty: float) -> np.ndarray:
    """score [layers, width], one prompt at a time."""
    return contribution_parts(hf, family, sides).score(penalty)


def contribution_parts(hf: Any, family: str, sides: tuple[Any, Any]) -> Parts:
    """One prompt at a time."""
    downs = down_projections(hf, family)
    posts = [
        m for n, m in hf.named_modules() if n.endswith("post_feedforward_layernorm")
    ]  # Gemma 2 and 3, OLMo 2
    taken: dict[str, Any] = {}
    hooks = []
    for layer, down in enumerate(downs):

        def keep(_: Any, args: Any, layer: int = layer) -> None:
            taken["a", layer] = args[0][0, -1].double().numpy()

        def out(_: Any, __: Any, y: Any, layer: int = layer) -> None:
            taken["y", layer] = y[0, -1].double().numpy()

        hooks += [down.register_forward_pre_hook(keep), down.register_forward_hook(out)]
    activations: list[list[np.ndarray]] = [[], []]
    probabilities: list[list[np.ndarray]] = [[], []]
    scales = []
    for side, prompts in enumerate(sides):
        for ids in prompts:
            with torch.inference_mode():
                logits = hf(torch.tensor([ids])).logits[0, -1].double().numpy()
            e = np.exp(logits - logits.max())
            probabilities[side].append(e / e.sum())
            activations[side].append(np.stack([taken["a", i] for i in range(len(downs))]))
            outs = np.stack([taken["y", i] for i in range(len(downs))])
            scales.append(1 / np.sqrt((outs**2).mean(1)))
    for hook in hooks:
        hook.remove()
    gain, centred = norm_of(hf, family)
    head = hf.get_output_embeddings().weight.detach().double().numpy()
    u = head.T @ (np.mean(probabilities[0], 0) - np.mean(probabilities[1], 0)) * gain
    if centred:
        u -= u.mean()
    u /= np.linalg.norm(u)
    along, length = [], []
    for layer, down in enumerate(downs):
        write = down.weight.detach().double().numpy()
        write = write.T if family == "gpt2" else write
        if posts:
            post = posts[layer].weight.detach().double().numpy() + ("gemma" in family)
            write = write * post[:, None] * np.mean(scales, 0)[layer]
        along.append(u @ write)
        length.append(np.linalg.norm(write, axis=0))
    return Parts(
        np.mean(activations[0], 0),
        np.mean(activations[1], 0),
        np.abs(activations[1]).mean(0),
        np.stack(along),
        np.stack(length),
    )
