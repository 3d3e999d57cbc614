"""The choice half: what candidates do on prompts that their neurons were not found on.

    left       share of the answers that still show the behaviour, are broken, or no longer answer
    kl         KL from the unsteered model on prompts without the behaviour, nats per token

An answer counts as one only if the unsteered model finds it about as likely, and as much to the point
of its prompt, as nearly all of its own answers to the matched prompts. A text that slips past the
judge by breaking its words, or by talking of something else, does not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from ... import _core
from ...base.progress import bar
from ...hosts.model import Model
from ...prompts.judges import Judge
from ..divergence import divergence
from ..outcomes import outcome_of

TAIL = 0.05  # of the model's own answers lie beyond either bound


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one setting did.

    Attributes:
        rate, other, broken: shares of the outcomes.
        astray: share of other answers that are unlikely or beside the point.
        left: 1 - other + astray.
        kl, kl_error: mean over the prompts without the behaviour, nats per token, and its standard
            error.
    """

    rate: float
    other: float
    broken: float
    astray: float
    left: float
    kl: float
    kl_error: float
    n: int
    kl_n: int


class Choice:
    """Prompts of the choice half as token ids, with what the unsteered model says to them."""

    def __init__(
        self,
        model: Model,
        judge: Judge,
        positive: Sequence[str],
        negative: Sequence[str],
        harmless: Sequence[str],
        *,
        chat: bool | None,
        max_new_tokens: int,
        batch_size: int,
        progress: bool,
    ) -> None:
        self.model, self.judge, self.texts, self.chat = model, judge, list(positive), chat
        self.asked = model.tokenize(positive, chat)
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.active, _ = model._steering(1)
        matched = model.tokenize(negative, chat)
        calm_texts = [*negative, *harmless]
        calm = model.tokenize(calm_texts, chat)
        with bar("choice", progress, "step") as update:
            said = self._answers(_core.Intervention(1), calm, update)
        known = [i for i, tokens in enumerate(said) if tokens]
        self.calm_texts = [calm_texts[i] for i in known]
        self.calm, self.said = [calm[i] for i in known], [said[i] for i in known]
        own = [i for i in known if i < len(matched)]
        likely, relevant = self._reading([matched[i] for i in own], [said[i] for i in own])
        self.least_likely = _quantile(likely, TAIL)
        self.least_relevant = _quantile(relevant, TAIL)

    def measure(self, steered: Sequence[_core.Intervention], progress: bool) -> list[Measured]:
        """All settings in one batch, one arm a row."""
        n = len(self.asked)
        arms = _core.Intervention.concat(list(steered))
        rows = [ids for _ in steered for ids in self.asked]
        which = [arm for arm in range(len(steered)) for _ in range(n)]
        with bar("answers", progress, "step") as update:
            said = self._answers(arms, rows, update, which)
        likely, relevant = self._reading(rows, said)
        kl = divergence(
            self.model,
            [_core.Intervention(1), *steered],
            self.calm,
            self.said,
            batch_size=self.batch_size,
            show=progress,
        )[1:]
        parts = [slice(i * n, (i + 1) * n) for i in range(len(steered))]
        return [
            self._one(said[part], likely[part], relevant[part], kl[i])
            for i, part in enumerate(parts)
        ]

    def measure_instruction(self, text: str) -> Measured:
        """The unsteered model with an instruction before each prompt: the baseline "prompt"."""

        def behind(prompts: Sequence[str]) -> list[list[int]]:
            return self.model.tokenize([f"{text}\n\n{p}" for p in prompts], self.chat)

        said = self._answers(_core.Intervention(1), behind(self.texts), None)
        kl = divergence(
            self.model,
            [_core.Intervention(1)] * 2,
            self.calm,
            self.said,
            prompts_of_arm={1: behind(self.calm_texts)},
            batch_size=self.batch_size,
            show=False,
        )
        return self._one(said, *self._reading(self.asked, said), kl[1])

    def _one(
        self,
        said: list[list[int]],
        likely: list[float],
        relevant: list[float],
        kl: torch.Tensor,
    ) -> Measured:
        texts = [self.model.decode(tokens) for tokens in said]
        judged = self.judge.judge_all(texts, self.texts)
        outcomes = [
            outcome_of(text, tokens, hit, math.isfinite(x))
            for text, tokens, hit, x in zip(texts, said, judged, likely, strict=True)
        ]
        astray = sum(
            outcome == "other" and (x < self.least_likely or r < self.least_relevant)
            for outcome, x, r in zip(outcomes, likely, relevant, strict=True)
        )
        n = len(said)
        share = {name: outcomes.count(name) / n for name in ("behaviour", "other", "broken")}
        error = float(kl.std() / math.sqrt(len(kl))) if len(kl) > 1 else 0.0
        return Measured(
            rate=share["behaviour"],
            other=share["other"],
            broken=share["broken"],
            astray=astray / n,
            left=1.0 - share["other"] + astray / n,
            kl=float(kl.mean()),
            kl_error=error,
            n=n,
            kl_n=len(kl),
        )

    def _answers(
        self, arms: _core.Intervention, ids: list[list[int]], update: Any, which: Any = ()
    ) -> list[list[int]]:
        return self.model.core.generate(
            ids,
            max_new_tokens=self.max_new_tokens,
            intervention=self.active.then(arms),
            arms=list(which),
            batch_rows=self.batch_size,
            progress=update,
        )

    def _reading(
        self, prompts: list[list[int]], said: list[list[int]]
    ) -> tuple[list[float], list[float]]:
        """(log likelihood per token, relevance) of answers to the unsteered model, by row.

        Relevance is that given the own prompt less that given the next one of another answer.
        """
        rows = [i for i, tokens in enumerate(said) if tokens]
        likely, relevant = [-math.inf] * len(said), [-math.inf] * len(said)
        if not rows:
            return likely, relevant
        others = {tuple(p): prompts[(i + 1) % len(prompts)] for i, p in enumerate(prompts)}
        asked = [prompts[i] for i in rows] + [others[tuple(prompts[i])] for i in rows]
        texts = [said[i] for i in rows]
        values = self.model.core.log_likelihood(
            asked, texts + texts, intervention=self.active, batch_rows=self.batch_size
        ).tolist()
        for at, i in enumerate(rows):
            likely[i] = values[at] / len(said[i])
            relevant[i] = likely[i] - values[len(rows) + at] / len(said[i])
        return likely, relevant


def _quantile(values: Sequence[float], share: float) -> float:
    finite = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    return float(finite.quantile(share)) if len(finite) else -math.inf
