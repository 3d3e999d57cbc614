"""The smallest circuit: how few neurons keep most of an effect."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from .._core import Circuit
from ..base.checks import whole_number
from ..base.html import frame_html, lead, panel
from ..base.later import pd
from ..hosts.model import Model
from ..measure.outcomes import outcome_of
from ..prompts.tasks import Task


@dataclass(frozen=True)
class SmallestK:
    """The outcome of a search for the smallest circuit.

    Attributes:
        k: the smallest size found that reaches `target`.
        target: share * full, in the units of the effect.
        full: the effect at `k_max`.
        share, k_max: as asked.
        evaluations: every (k, effect) measured, in order.
        monotone: whether the measured effects never fall as k grows. Where False, a smaller k that
            the bisection skipped may reach the target too.
    """

    k: int
    target: float
    full: float
    share: float
    k_max: int
    evaluations: tuple[tuple[int, float], ...]
    monotone: bool

    @property
    def table(self) -> pd.DataFrame:
        """Every evaluation by k: `k`, `effect`, `share_of_full`, `reaches`."""
        rows = sorted(self.evaluations)
        return pd.DataFrame(
            {
                "k": [k for k, _ in rows],
                "effect": [e for _, e in rows],
                "share_of_full": [e / self.full for _, e in rows],
                "reaches": [e >= self.target for _, e in rows],
            }
        )

    def __repr__(self) -> str:
        return f"SmallestK({self.k} neurons keep {self.share:.0%} of the effect of {self.k_max})"

    def _repr_html_(self) -> str:
        note = "" if self.monotone else "; the effect is not monotone in k, so read the table"
        head = lead(
            f"{self.k:,} neurons",
            f"keep {100 * self.share:.0f} % of the effect of "
            f"{self.k_max:,} ({len(self.evaluations)} evaluations{note})",
        )
        return panel([head, frame_html(self.table)])


def smallest_k(effect: Callable[[int], float], k_max: int, *, share: float = 0.8) -> SmallestK:
    """The smallest k whose effect reaches `share` of the effect of `k_max`, by bisection.

    Assumes that the effect does not fall as k grows. Where it does, the k found still reaches the
    target, but a smaller one may too; `monotone` and `table` show what was measured.

    Args:
        effect: k -> size of the effect, larger is stronger; see `rate_reduction`. Called about
            log2(k_max) + 2 times, never twice for one k.
        k_max: largest size, whose effect is the full one.
    Raises:
        ValueError: a share outside (0, 1], an effect at k_max that is not above 0, or one that is
            not finite.
    """
    whole_number(k_max, 1, "k_max", "smallest_k")
    if not 0 < share <= 1:
        raise ValueError(
            f"smallest_k: expected a share above 0 and up to 1, got {share}; 0.8 keeps 80 %"
        )
    seen: dict[int, float] = {}

    def measure(k: int) -> float:
        if k not in seen:
            value = float(effect(k))
            if not math.isfinite(value):
                raise ValueError(
                    f"smallest_k: expected a finite effect, got {value} at k={k}; check the effect"
                )
            seen[k] = value
        return seen[k]

    full = measure(k_max)
    if full <= 0:
        raise ValueError(
            f"smallest_k: expected an effect above 0 at k_max={k_max}, got {full:.4g}; raise k_max "
            "or choose a stronger multiplier"
        )
    target = share * full
    low, high = 0, k_max  # low misses the target, high reaches it
    while high - low > 1:
        middle = max(1, (low + high) // 2)
        if measure(middle) >= target:
            high = middle
        else:
            low = middle
    ordered = [value for _, value in sorted(seen.items())]
    return SmallestK(
        k=high,
        target=target,
        full=full,
        share=share,
        k_max=k_max,
        evaluations=tuple(seen.items()),
        monotone=all(a <= b for a, b in itertools.pairwise(ordered)),
    )


def rate_reduction(
    model: Model,
    ranking: Circuit,
    task: Task,
    *,
    multiplier: float = 0.0,
    max_new_tokens: int = 64,
    batch_size: int = 64,
    progress: bool = False,
) -> Callable[[int], float]:
    """An effect for `smallest_k`: how many answers steering the k strongest neurons turns.

    Only other, unbroken answers count: text that falls apart is no effect.

    Args:
        ranking: a circuit of at least k_max neurons; the strongest k of it are steered.
        task: its evaluation prompts and judge measure the rate.
        multiplier: m of the steering; 0 ablates.
    Returns:
        k -> steered share of other answers - unsteered one, -1 to 1. The unsteered share is measured
        on the first call. Raises ValueError for a k beyond the ranking.
    """
    unsteered: list[float] = []

    def turned() -> float:
        tokens = model.generate(
            task.evaluation,
            max_new_tokens=max_new_tokens,
            chat=task.chat,
            batch_size=batch_size,
            progress=progress,
            return_tokens=True,
        )
        texts = [model.decode(t) for t in tokens]
        judged = task.judge.judge_all(texts, task.evaluation)
        found = [outcome_of(*x) for x in zip(texts, tokens, judged, strict=True)]
        return found.count("other") / len(found)

    def effect(k: int) -> float:
        if not 1 <= k <= len(ranking):
            raise ValueError(
                f"rate_reduction: expected k between 1 and {len(ranking)}, got {k}; discover a "
                "larger circuit"
            )
        if not unsteered:
            unsteered.append(turned())
        part = Circuit(
            ranking.shape, ranking.neurons[:k], widths=ranking.widths, experts=ranking.experts
        )
        with model.steer(part, multiplier=multiplier):
            return turned() - unsteered[0]

    return effect
