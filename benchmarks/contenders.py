"""cna and hand-written hooks, each with the jobs that run.py measures."""

from __future__ import annotations

import abc
import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
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


class Cna:
    """This library, through its public objects; steered runs name their strengths as arms."""

    def __init__(self, folder: Path) -> None:
        import cna

        self.cna, self.folder = cna, folder
        self.model = cna.load(folder / "cna", device=DEVICE)

    def discover(self, positive: Ids, negative: Ids, k: int) -> tuple[list[list[int]], np.ndarray]:
        circuit = self.cna.discover(
            self.model, positive, negative, k=k, universal=None, progress=False
        )
        delta = np.zeros((self.model.n_layers, self.model.width))
        for n in circuit.neurons:
            delta[n.layer, n.index] = n.delta
        return [[n.layer, n.index] for n in circuit.neurons], delta

    def generate(self, ids: Ids, strengths: list[float], new: int) -> Ids:
        """Answers strength by strength, all rows of all strengths in one run."""
        circuit = self.cna.Circuit.load(self.folder / "circuit.json")
        return self.model.core.generate(
            ids * len(strengths),
            max_new_tokens=new,
            ignore_eos=True,
            intervention=self.cna.Intervention.scale(circuit, strengths),
            arms=[arm for arm in range(len(strengths)) for _ in ids],
        )

    def steps(self, ids: Ids, new: int, pairs: int) -> dict[str, Any]:
        """Seconds of every decoding step, unsteered and steered in turns."""
        circuit = self.cna.Circuit.load(self.folder / "circuit.json")
        plans = {
            "unsteered": self.cna.Intervention(1),
            "steered": self.cna.Intervention.scale(circuit, [0.0]),
        }
        out: dict[str, list[list[float]]] = {name: [] for name in plans}
        for pair in range(-1, pairs):  # the first pair warms up
            for name in sorted(plans, reverse=pair % 2 == 0):
                ticks: list[float] = []
                self.model.core.generate(
                    ids,
                    max_new_tokens=new,
                    ignore_eos=True,
                    intervention=plans[name],
                    batch_rows=len(ids),
                    progress=lambda done, total, ticks=ticks: ticks.append(time.perf_counter()),
                )
                if pair >= 0:  # the first step is the prompt
                    out[name].append([b - a for a, b in pairwise(ticks[1:])])
        return {"seconds_per_step": out, "batch_rows": len(ids), "neurons": len(circuit)}

    def divergence(self, pairs: list[Ids], strengths: list[float]) -> list[list[float]]:
        """Benign KL of each strength, mean over an answer's tokens, [strength][prompt]."""
        circuit = self.cna.Circuit.load(self.folder / "circuit.json")
        kl, _ = self.model.core.divergence(
            [prompt for prompt, _ in pairs],
            [answer for _, answer in pairs],
            intervention=self.cna.Intervention.scale(circuit, [1.0, *strengths]),
        )
        return kl[1:].tolist()

    def likelihood(self, pairs: list[Ids], strengths: list[float]) -> list[list[float]]:
        """Log-likelihood of each choice behind its question, [strength][choice]."""
        circuit = self.cna.Circuit.load(self.folder / "circuit.json")
        arms = [1.0, *strengths]
        sums = self.model.core.log_likelihood(
            [prompt for prompt, _ in pairs] * len(arms),
            [end for _, end in pairs] * len(arms),
            intervention=self.cna.Intervention.scale(circuit, arms),
            arms=[arm for arm in range(len(arms)) for _ in pairs],
        )
        return sums.view(len(arms), -1)[1:].tolist()

    def work(self, positive: Ids, negative: Ids) -> dict[str, Any]:
        """Multiply-adds of a discovery: every token that cna computes, padding not counted."""
        config = json.loads((self.folder / "hf" / "config.json").read_text())
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
        dim = config.get("head_dim") or hidden // heads
        kv = config.get("num_key_value_heads", heads)
        shapes = [(hidden, (heads + 2 * kv) * dim), (heads * dim, hidden)]
        shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
        linear = layers * sum(a * b for a, b in shapes) - inner * hidden  # ends at the last tap
        ids = positive + negative
        prefix = self.cna._core.common_prefix(ids)
        own = [len(p) - prefix for p in ids]
        seen = prefix * (prefix + 1) // 2
        seen += sum(prefix * n + n * (n + 1) // 2 for n in own)
        tokens = prefix + sum(own)
        padded = prefix
        largest = 1
        for rows in batches([[0] * n for n in own], True, rows=64):
            size = len(rows) * max(own[i] for i in rows)
            padded, largest = padded + size, max(largest, size)
        return {
            "multiply_adds": tokens * linear + 2 * layers * heads * dim * seen,
            "tokens_of_prompts": sum(map(len, ids)),
            "shared_prefix": prefix,
            "tokens_computed": tokens,
            "tokens_with_padding": padded,
            "shapes": [[largest, a, b] for a, b in shapes],
        }

    def matmul(self, shapes: list[list[int]], seconds: float) -> float:
        """Multiply-adds a second of torch.matmul, float32, over the shapes [rows, in, out]."""
        draw = functools.partial(torch.randn, device=DEVICE)
        pairs = [(draw(t, a), draw(b, a).t()) for t, a, b in shapes]
        size = sum(t * a * b for t, a, b in shapes)
        rates: list[float] = []
        end = time.perf_counter() + seconds
        with torch.inference_mode():
            while time.perf_counter() < end or len(rates) < 3:
                start = time.perf_counter()
                for x, w in pairs:
                    torch.matmul(x, w)
                settle()
                rates.append(size / (time.perf_counter() - start))
        return statistics.median(rates)


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
