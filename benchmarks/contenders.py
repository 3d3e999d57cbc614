"""Hand-written hooks, with the jobs that run.py measures, and what all contenders share."""

from __future__ import annotations

import abc
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 32  # rows of the hook baselines and of the peers
DEVICE = sys.argv[4] if len(sys.argv) > 4 else "cpu"
Ids = list[list[int]]
Scorer = Callable[[float], torch.Tensor]


def top_k(delta: np.ndarray, k: int) -> list[list[int]]:
    """The k neurons of largest |delta| [n_layers, width], ties by layer, then index."""
    order = np.argsort(-np.abs(delta).ravel(), kind="stable")[:k]
    return [[int(i) // delta.shape[1], int(i) % delta.shape[1]] for i in order]


def pad_left(ids: Ids, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and positions, int64 [rows, longest], of prompts padded on the left."""
    longest = max(map(len, ids))
    tokens = torch.tensor([[pad] * (longest - len(p)) + p for p in ids], device=DEVICE)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in ids], device=DEVICE)
    return tokens, mask, (mask.cumsum(1) - 1).clamp_min(0)


def batches(ids: Ids, by_length: bool, rows: int = BATCH) -> Iterator[list[int]]:
    """Which prompts go together: in their order, or those of like length, longest first."""
    order = list(range(len(ids)))
    if by_length:
        order.sort(key=lambda i: -len(ids[i]))
    for start in range(0, len(order), rows):
        yield order[start : start + rows]


def settle() -> None:
    """Wait until the device has done what it was given."""
    if DEVICE.startswith("cuda"):
        torch.cuda.synchronize()


class HuggingFace(abc.ABC):
    """What all contenders on a Hugging Face model share; float32, evaluation mode."""

    by_length = True

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.folder = folder
        self.hf: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
        self.hf.eval().to(DEVICE)
        self.hf.generation_config.eos_token_id = self.hf.config.eos_token_id = None
        self.pad = 0
        self.layers = list(self.hf.model.layers)

    def discover(self, positive: Ids, negative: Ids, k: int) -> tuple[list[list[int]], np.ndarray]:
        ids = positive + negative
        acts = self.record(ids).double().numpy()
        delta = acts[: len(positive)].mean(0) - acts[len(positive) :].mean(0)
        return top_k(delta, k), delta

    @torch.no_grad()
    def record(self, ids: Ids) -> torch.Tensor:
        """Last-token inputs of every down projection, [n_prompts, n_layers, width]."""
        out = torch.empty(len(ids), len(self.layers), self.hf.config.intermediate_size)
        for rows in batches(ids, self.by_length):
            out[rows] = self.collect([ids[i] for i in rows]).cpu()
        return out

    @abc.abstractmethod
    def collect(self, ids: Ids) -> torch.Tensor:
        """Last-token inputs of every down projection of one batch, [rows, n_layers, width]."""


class Hooks(HuggingFace):
    """Hand-written forward hooks, tuned: like lengths together, left padding, no logits."""

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        found: list[torch.Tensor] = []
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda _, args: found.append(args[0][:, -1].clone())
            )
            for layer in self.layers
        ]
        try:
            self.hf.model(tokens, attention_mask=mask, position_ids=positions, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found, 1)

    @contextlib.contextmanager
    def steered(self, strength: float) -> Iterator[None]:
        circuit = json.loads((self.folder / "neurons.json").read_text())
        hooks = []
        for number, layer in enumerate(self.layers):
            mine = [i for where, i in circuit if where == number]
            if mine:
                scale = torch.ones(self.hf.config.intermediate_size, device=DEVICE)
                scale[mine] = strength
                hooks.append(
                    layer.mlp.down_proj.register_forward_pre_hook(
                        lambda _, args, scale=scale: (args[0] * scale,)
                    )
                )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def answers(self, ids: Ids, new: int) -> Ids:
        tokens, mask, _ = pad_left(ids, self.pad)
        out = self.hf.generate(
            tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=self.pad
        )
        return out[:, tokens.shape[1] :].tolist()

    @torch.inference_mode()
    def generate(self, ids: Ids, strengths: list[float], new: int) -> Ids:
        out: Ids = []
        for strength in strengths:
            with self.steered(strength):
                out += self.answers(ids, new)
        return out

    def scored(self, pairs: list[Ids]) -> Iterator[tuple[list[int], torch.Tensor, Scorer]]:
        """Batches of like lengths: which pairs, the tokens that are scored, [rows, longest] in the last
        places, and their log-probabilities [rows, longest, vocab] by strength.
        """
        whole = [prompt + end for prompt, end in pairs]
        for rows in batches(whole, True):
            tokens, mask, positions = pad_left([whole[i] for i in rows], self.pad)
            longest = max(len(pairs[i][1]) for i in rows)

            run = functools.partial(
                self.hf,
                tokens,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=longest + 1,
            )

            def log_p(strength: float, run: Any = run) -> torch.Tensor:
                with self.steered(strength):
                    return run().logits[:, :-1].log_softmax(-1)

            yield rows, tokens[:, -longest:], log_p

    @torch.inference_mode()
    def divergence(self, pairs: list[Ids], strengths: list[float]) -> list[list[float]]:
        out = torch.zeros(len(strengths), len(pairs))
        for rows, _, log_p in self.scored(pairs):
            plain = log_p(1.0)
            for arm, strength in enumerate(strengths):
                terms = ((plain - log_p(strength)) * plain.exp()).sum(-1)
                for r, i in enumerate(rows):
                    out[arm, i] = terms[r, -len(pairs[i][1]) :].mean()
        return out.tolist()

    @torch.inference_mode()
    def likelihood(self, pairs: list[Ids], strengths: list[float]) -> list[list[float]]:
        out = torch.zeros(len(strengths), len(pairs))
        for rows, ids, log_p in self.scored(pairs):
            for arm, strength in enumerate(strengths):
                mine = log_p(strength).gather(2, ids[..., None])[..., 0]
                for r, i in enumerate(rows):
                    out[arm, i] = mine[r, -len(pairs[i][1]) :].sum()
        return out.tolist()


class HooksOneByOne(Hooks):
    """The same hooks as they are mostly written: one prompt at a time, whole model."""

    def record(self, ids: Ids) -> torch.Tensor:
        found: list[torch.Tensor] = []
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(
                lambda _, args: found.append(args[0][0, -1].clone())
            )
            for layer in self.layers
        ]
        try:
            with torch.inference_mode():
                for prompt in ids:
                    self.hf(torch.tensor([prompt], device=DEVICE))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(found).reshape(len(ids), len(self.layers), -1).cpu()

    def answers(self, ids: Ids, new: int) -> Ids:
        return [Hooks.answers(self, [prompt], new)[0] for prompt in ids]
