"""The choice half: what candidates do on prompts that their neurons were not found on.

    left       share of the answers that still show the behaviour, are broken, or no longer answer
    kl         KL from the unsteered model on prompts without the behaviour, nats per token

An answer counts as one only if the unsteered model finds it as much to the point of its prompt as
nearly all of its own answers to the matched prompts, and not far less likely. A text that slips past
the judge by breaking its words, or by talking of nothing in particular, does not. Any steered text is
somewhat less likely than what the model would say itself, so that bound is wide.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from ... import _core
from ...base.progress import bar
from ...hosts import messages
from ...hosts.model import Model
from ...prompts.judges import Judge
from ...prompts.thoughts import judge_answers, opens_thoughts
from ..divergence import divergence
from ..outcomes import outcome_of

TAIL = 0.05  # of the model's own answers are less to the point than the bound, and less likely
WIDE = 1.0  # nats per token that an answer may be less likely than these


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one setting did; shares are NaN and n is 0 where it was asked nothing.

    Attributes:
        rate, other, broken: shares of the outcomes.
        astray: share of other answers that are unlikely or beside the point.
        left: what is not another answer to the point: rate + broken + astray.
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
        positive: Sequence[Any],
        negative: Sequence[Any],
        harmless: Sequence[Any],
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
        calm = [*matched, *(model.tokenize(harmless, chat) if harmless else [])]
        with bar("choice", progress, "step") as update:
            said = self._answers(_core.Intervention(1), calm, update)
        known = [i for i, tokens in enumerate(said) if tokens]
        self.calm_texts = [calm_texts[i] for i in known]
        self.calm, self.said = [calm[i] for i in known], [said[i] for i in known]
        own = [i for i in known if i < len(matched)]
        likely, relevant = self._reading(
            [matched[i] for i in own],
            [said[i] for i in own],
            [matched[(i + 1) % len(matched)] for i in own],
        )
        self.least_likely = _quantile(likely, TAIL) - WIDE
        self.least_relevant = _quantile(relevant, TAIL)

    def measure(
        self, steered: Sequence[_core.Intervention], progress: bool, most_kl: float = math.inf
    ) -> list[Measured]:
        """All settings in one batch, one arm a row; those beyond `most_kl` are asked nothing."""
        every = divergence(
            self.model,
            [_core.Intervention(1), *steered],
            self.calm,
            self.said,
            batch_size=self.batch_size,
            show=progress,
        )[1:]
        asked = [i for i, kl in enumerate(every) if float(kl.mean()) <= most_kl]
        n = len(self.asked)
        said: list[list[int]] = []
        if asked:
            arms = _core.Intervention.concat([steered[i] for i in asked])
            rows = [ids for _ in asked for ids in self.asked]
            which = [arm for arm in range(len(asked)) for _ in range(n)]
            with bar("answers", progress, "step") as update:
                said = self._answers(arms, rows, update, which)
        outcomes = self._outcomes(said)
        parts = {i: slice(at * n, (at + 1) * n) for at, i in enumerate(asked)}
        return [
            self._measured(outcomes[parts[i]] if i in parts else None, kl)
            for i, kl in enumerate(every)
        ]

    def measure_instruction(self, text: str) -> Measured:
        """The unsteered model with an instruction before each prompt: the baseline "prompt"."""

        def behind(prompts: Sequence[Any]) -> list[list[int]]:
            asked = [[messages.behind(text, prompt)] for prompt in prompts]  # of either kind
            return [self.model.tokenize(one, self.chat)[0] for one in asked]

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
        return self._measured(self._outcomes(said), kl[1])

    def _outcomes(self, said: list[list[int]]) -> list[str]:
        """Outcome of each answer, "astray" among them; the prompts come again for every setting.

        Only what could be another answer is read again.
        """
        texts = [self.model.decode(tokens) for tokens in said]
        times = len(said) // len(self.asked)
        asked = [messages.question(prompt) for prompt in self.texts]
        opened = [opens_thoughts(self.model.tokenizer, ids) for ids in self.asked]
        judged, _ = judge_answers(self.judge, texts, asked * times, opened * times)
        out = [outcome_of(*x) for x in zip(texts, said, judged, strict=True)]
        others = [i for i, outcome in enumerate(out) if outcome == "other"]
        n = len(self.asked)
        likely, relevant = self._reading(
            [self.asked[i % n] for i in others],
            [said[i] for i in others],
            [self.asked[(i + 1) % n] for i in others],
        )
        for i, x, r in zip(others, likely, relevant, strict=True):
            if not math.isfinite(x):
                out[i] = "broken"
            elif x < self.least_likely or r < self.least_relevant:
                out[i] = "astray"
        return out

    def _measured(self, outcomes: Sequence[str] | None, kl: torch.Tensor) -> Measured:
        error = float(kl.std() / math.sqrt(len(kl))) if len(kl) > 1 else 0.0
        n = 0 if outcomes is None else len(outcomes)

        def share(*names: str) -> float:
            return sum(o in names for o in outcomes) / n if outcomes else math.nan

        return Measured(
            rate=share("behaviour"),
            other=share("other", "astray"),
            broken=share("broken"),
            astray=share("astray"),
            left=share("behaviour", "broken", "astray"),
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
        self, prompts: list[list[int]], said: list[list[int]], others: list[list[int]]
    ) -> tuple[list[float], list[float]]:
        """(log likelihood per token, relevance) of answers to the unsteered model, by row.

        Relevance is that given the own prompt less that given another one.
        """
        if not said:
            return [], []
        n = len(said)
        values = self.model.core.log_likelihood(
            prompts + others, said + said, intervention=self.active, batch_rows=self.batch_size
        ).tolist()
        likely = [values[i] / len(tokens) for i, tokens in enumerate(said)]
        return likely, [x - values[n + i] / len(said[i]) for i, x in enumerate(likely)]


def _quantile(values: Sequence[float], share: float) -> float:
    finite = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    return float(finite.quantile(share)) if len(finite) else -math.inf
