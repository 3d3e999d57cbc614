"""A steering block: what is steered while it lasts, how strongly, from which token on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from .. import _core
from ..base.checks import is_whole

Positions = str | int


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """One active `with model.steer(...)`.

    Attributes:
        arms: the arm of each prompt; None: one for all.
        said: what it is, for the provenance of what is found or measured inside.
    """

    intervention: _core.Intervention
    arms: list[int] | None
    said: dict[str, Any]


def steering_block(
    what: Any,
    multiplier: float | Sequence[float],
    shape: tuple[int, int],
    positions: Positions = "all",
) -> Block:
    """The block of `Model.steer`; arguments and errors as there."""
    last = _last_tokens(positions)
    if isinstance(what, _core.Intervention):
        name, arms, strengths = "intervention", None, None
        intervention = what
        if what.arms > 1:
            arms = list(range(what.arms))
    else:
        strengths, arms = _strengths(multiplier)
        intervention, name = _intervention(what, strengths, shape)
    if last is not None:
        intervention = intervention.from_last(last)
    said: dict[str, Any] = {"what": name, "digest": intervention.digest}
    if strengths is not None:
        said["strength"] = strengths[0] if arms is None else [strengths[i] for i in arms]
    if last is not None:
        said["from_last"] = last
    return Block(intervention, arms, said)


def _strengths(multiplier: float | Sequence[float]) -> tuple[list[float], list[int] | None]:
    """The different strengths, and the arm of each prompt where there is one strength per prompt."""
    per_prompt = not isinstance(multiplier, (int, float))
    values = [float(m) for m in multiplier] if per_prompt else [float(multiplier)]  # type: ignore
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(
            f"steer: expected finite strengths, got {multiplier}; pass a number, or one per prompt"
        )
    strengths = sorted(set(values))
    return strengths, [strengths.index(v) for v in values] if per_prompt else None


def _intervention(
    what: Any, strengths: list[float], shape: tuple[int, int]
) -> tuple[_core.Intervention, str]:
    if isinstance(what, _core.Circuit):
        if tuple(what.shape) != shape:
            raise ValueError(
                f"steer: expected a circuit of {shape[0]} layers x {shape[1]} neurons, got "
                f"one of {what.shape[0]} x {what.shape[1]}; discover it on this model"
            )
        return _core.Intervention.scale(what, strengths), "circuit"
    if hasattr(what, "intervention"):
        return what.intervention(strengths), str(getattr(what, "name", type(what).__name__))
    raise ValueError(
        f"steer: expected a Circuit, an Intervention or a SteeringVector, got "
        f"{type(what).__name__}; discover a circuit first"
    )


def _last_tokens(positions: Positions) -> int | None:
    """From how many tokens before the answer on; None: from the first."""
    if positions == "all":
        return None
    if positions == "answer":
        return 1
    if not is_whole(positions) or int(positions) < 1:
        raise ValueError(
            f"steer: expected positions 'all', 'answer' or a number of last prompt tokens, got "
            f"{positions!r}; choose one"
        )
    return int(positions)
