"""What lm-evaluation-harness asks for, answered in batches: log likelihoods, greedy flags, texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from .. import _core
from ..base.progress import bar
from ..hosts.model import Model

_STEP = 32  # tokens between two looks for a stop string


@dataclasses.dataclass(frozen=True)
class Passes:
    """A model under one steering.

    Attributes:
        steering: one arm, for all prompts.
        max_length: tokens of prompt and answer together.
    """

    model: Model
    steering: _core.Intervention
    batch_rows: int
    max_length: int
    seed: int
    progress: bool

    @property
    def core(self) -> _core.Model:
        return self.model.core

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], title: str) -> list[float]:
        """Sum of log probabilities of each continuation; 0 for one without tokens."""
        out = [0.0] * len(pairs)
        which = [i for i, (_, tail) in enumerate(pairs) if tail]
        if not which:
            return out
        prompts, tails = [], []
        for i in which:
            head, tail = pairs[i]
            if len(tail) >= self.max_length:
                raise ValueError(
                    f"CnaLM: expected continuations below the model's {self.max_length} tokens, got "
                    f"{len(tail)}; shorten them"
                )
            prompts.append(head[-(self.max_length - len(tail)) :])
            tails.append(tail)
        with bar(title, self.progress) as update:
            values = self.core.log_likelihood(
                prompts,
                tails,
                intervention=self.steering,
                batch_rows=self.batch_rows,
                progress=update,
            )
        for i, value in zip(which, values.tolist(), strict=True):
            out[i] = value
        return out

    def greedy(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        """Whether greedy decoding would write each continuation.

        One forward pass per different context settles most; only continuations whose first token
        is the likeliest are decoded further.
        """
        heads = [tuple(head[-max(1, self.max_length - len(tail)) :]) for head, tail in pairs]
        contexts = list(dict.fromkeys(heads))
        if not contexts:
            return []
        with bar("greedy", self.progress) as update:
            logits = self.core.logits(
                [list(c) for c in contexts],
                intervention=self.steering,
                batch_rows=self.batch_rows,
                progress=update,
            )
        first = dict(zip(contexts, logits.argmax(-1).tolist(), strict=True))
        out = [not tail or first[h] == tail[0] for h, (_, tail) in zip(heads, pairs, strict=True)]
        longer: dict[tuple[int, ...], int] = {}
        for head, (_, tail), hit in zip(heads, pairs, out, strict=True):
            if hit and len(tail) > 1:
                longer[head] = max(longer.get(head, 0), len(tail))
        if not longer:
            return out
        most = max(longer.values())
        fits = max(len(h) for h in longer) + most <= self.max_length
        decoded: dict[tuple[int, ...], list[int]] = {}
        for size in [most] if fits else sorted(set(longer.values())):
            mine = [h for h, n in longer.items() if fits or n == size]
            with bar("greedy", self.progress, "step") as update:
                answers = self.core.generate(
                    [list(h) for h in mine],
                    max_new_tokens=size,
                    ignore_eos=True,
                    intervention=self.steering,
                    batch_rows=self.batch_rows,
                    progress=update,
                )
            decoded |= dict(zip(mine, answers, strict=True))
        return [
            hit and (len(tail) <= 1 or list(decoded[head][: len(tail)]) == tail)
            for head, (_, tail), hit in zip(heads, pairs, out, strict=True)
        ]

    def answers(
        self,
        prompts: list[list[int]],
        most: int,
        stops: tuple[str, ...],
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> list[str]:
        """Decoded answers; greedy ones grow `_STEP` tokens at a time until a stop string shows."""
        tokens: list[list[int]] = [[] for _ in prompts]
        open_rows = list(range(len(prompts)))
        step = _STEP if stops and temperature == 0.0 else most
        with bar("generate", self.progress, "step") as update:
            while open_rows:
                size = min(step, most - len(tokens[open_rows[0]]))
                answers = self.core.generate(
                    [prompts[i] + tokens[i] for i in open_rows],
                    max_new_tokens=size,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    seed=self.seed,
                    intervention=self.steering,
                    batch_rows=self.batch_rows,
                    progress=update,
                )
                going = []
                for i, answer in zip(open_rows, answers, strict=True):
                    tokens[i] += answer
                    ended = len(answer) < size or len(tokens[i]) >= most
                    if not ended and not any(s in self.model.decode(tokens[i]) for s in stops):
                        going.append(i)
                open_rows = going
        return [cut(self.model.decode(t), stops) for t in tokens]


def cut(text: str, stops: Sequence[str]) -> str:
    """Text before the first of the stop strings."""
    places = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(places)] if places else text
