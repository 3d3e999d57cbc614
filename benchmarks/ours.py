"""cna as a contender: this version, and an earlier one in its own environment."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import DEVICE, Ids, batches, settle


class Cna:
    """This library, through its public objects; steered runs name their strengths as arms."""

    def __init__(self, folder: Path, export: str = "cna") -> None:
        import cna

        self.cna, self.folder = cna, folder
        self.model = cna.load(folder / export, device=DEVICE)

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

    def steps(
        self, ids: Ids, new: int, pairs: int, sizes: list[int], strengths: list[float]
    ) -> dict[str, Any]:
        """Seconds of every decoding step, unsteered and with circuits of some sizes, in turns.

        Steered rows take the strengths in turn. Which neurons they are costs nothing: those that
        differ most between the two halves of the prompts.
        """
        half = len(ids) // 2
        plans: dict[str, Any] = {"unsteered": {}}
        for k in sizes:
            circuit = self.cna.discover(
                self.model, ids[:half], ids[half:], k=k, universal=None, progress=False
            )
            plans[f"{k:,} neurons"] = {
                "intervention": self.cna.Intervention.scale(circuit, strengths),
                "arms": [row % len(strengths) for row in range(len(ids))],
            }
        out: dict[str, list[list[float]]] = {name: [] for name in plans}
        for turn in range(-1, pairs):  # the first warms up
            for name in list(plans)[:: 1 if turn % 2 else -1]:
                ticks: list[float] = []
                self.model.core.generate(
                    ids,
                    max_new_tokens=new,
                    ignore_eos=True,
                    batch_rows=len(ids),
                    progress=lambda done, total, ticks=ticks: ticks.append(time.perf_counter()),
                    **plans[name],
                )
                if turn >= 0:  # the first step is the prompt
                    out[name].append([b - a for a, b in pairwise(ticks[1:])])
        return {"seconds_per_step": out, "batch_rows": len(ids)}

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


class Before(Cna):
    """An earlier version, on an export of its own: it does not know the steps of later ones."""

    def __init__(self, folder: Path) -> None:
        own = folder / "before"
        if not own.exists():  # in a process of its own, which takes its memory along
            code = (
                "import sys, cna; from transformers import AutoModelForCausalLM, AutoTokenizer; "
                "hf, tokenizer, out = sys.argv[1:]; "
                "cna.export(AutoModelForCausalLM.from_pretrained(hf), "
                "AutoTokenizer.from_pretrained(tokenizer), out)"
            )
            run = [
                sys.executable,
                "-c",
                code,
                *map(os.fspath, (folder / "hf", folder / "cna", own)),
            ]
            subprocess.run(run, check=True)
        super().__init__(folder, "before")
