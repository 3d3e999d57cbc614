"""Which steering is in force: the `with model.steer(...)` blocks around a call.

A block belongs to the context that entered it: a thread, or an asyncio task (`asyncio.to_thread`
takes it along). Each model sees its own.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from .. import _core


class Entry(NamedTuple):
    """One block: what it does, the arm of each prompt (None: arm 0 for all), and its gate."""

    intervention: _core.Intervention
    arms: list[int] | None = None
    gate: _core.Gate | None = None


Combined = tuple[
    _core.Intervention, "list[int]"
]  # and the arm of each prompt; empty: arm 0 for all

_OPEN: ContextVar[tuple[tuple[object, Entry], ...]] = ContextVar("cna_steering", default=())


@contextlib.contextmanager
def entered(owner: object, entry: Entry) -> Iterator[None]:
    """Adds a block of `owner`, a model's own object, to this context."""
    mine = (owner, entry)
    _OPEN.set((*_OPEN.get(), mine))
    try:
        yield
    finally:
        _OPEN.set(tuple(block for block in _OPEN.get() if block is not mine))


def entries(owner: object) -> list[Entry]:
    """The blocks of `owner` that are open in this context, the outermost first."""
    return [entry for whose, entry in _OPEN.get() if whose is owner]


def strengths_of(multiplier: Any) -> tuple[list[float], bool]:
    """(values, one per prompt?) of what `Model.steer` takes: any number, or one for each prompt.

    Numbers of NumPy and of torch count as numbers, arrays without dimensions too.
    """
    alone = isinstance(multiplier, numbers.Real) or getattr(multiplier, "ndim", None) == 0
    text = isinstance(multiplier, (str, bytes))
    try:
        values = [] if text else [float(m) for m in ([multiplier] if alone else multiplier)]
    except (TypeError, ValueError):
        values = []
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(
            f"steer: expected finite strengths, got {multiplier!r}; pass a number, or one per prompt"
        )
    return values, not alone


def entry_of(what: Any, multiplier: Any, check: Callable[[_core.Circuit], None]) -> Entry:
    """What `Model.steer` takes as one block; `check` looks at a circuit first."""
    if isinstance(what, _core.Intervention):
        return Entry(what, list(range(what.arms)) if what.arms > 1 else None)
    values, per_prompt = strengths_of(multiplier)
    strengths = sorted(set(values))
    arms = [strengths.index(v) for v in values] if per_prompt else None
    if isinstance(what, _core.Circuit):
        check(what)
        return Entry(_core.Intervention.scale(what, strengths), arms)
    if isinstance(circuit := getattr(what, "circuit", None), _core.Circuit):
        check(circuit)
    if hasattr(what, "intervention"):
        return Entry(what.intervention(strengths), arms)
    raise ValueError(
        "steer: expected a Circuit, an Operation, an Intervention or a SteeringVector, got "
        f"{type(what).__name__}; discover a circuit first"
    )


def without_gates(
    open_blocks: Sequence[Entry], n_prompts: int, core: _core.Model, ids: list[list[int]] | None
) -> list[Entry]:
    """The same blocks, each gate settled prompt by prompt: behind a closed one, a block does nothing.

    A gate looks at the model as the blocks outside of it steer it. `ids`: the prompts; None is an error
    where there is a gate.
    """
    out: list[Entry] = []
    for block in open_blocks:
        if block.gate is not None:
            if ids is None:
                raise ValueError(
                    "steer: expected generate, logits or record inside a block with a gate, got a call "
                    "that knows no single prompts; leave the gate out there"
                )
            outside, of_prompt = combined(out, n_prompts)
            passes = block.gate.arms(core, ids, intervention=outside, arms=of_prompt)
            arms = block.arms or [0] * n_prompts
            guarded = _core.Intervention.concat([_core.Intervention(1), block.intervention])
            block = Entry(guarded, [p * (1 + a) for p, a in zip(passes, arms, strict=True)])
        out.append(block)
    return out


def combined(open_blocks: Sequence[Entry], n_prompts: int) -> Combined:
    """All of them, none with a gate, as one intervention, and the arm of each prompt."""
    for _, arms, _ in open_blocks:
        if arms is not None and len(arms) != n_prompts:
            raise ValueError(
                f"steer: expected one strength per prompt ({n_prompts}), got {len(arms)}; pass as "
                "many strengths as prompts"
            )
    chosen = [
        tuple(0 if arms is None else arms[i] for _, arms, _ in open_blocks)
        for i in range(n_prompts)
    ]
    combinations = sorted(set(chosen))
    total = _core.Intervention(len(combinations))
    for part, (intervention, _, _) in enumerate(open_blocks):
        total = total.then(intervention.select([c[part] for c in combinations]))
    if len(combinations) == 1:
        return total, []
    return total, [combinations.index(c) for c in chosen]


def at_positions(intervention: _core.Intervention, positions: str | int) -> _core.Intervention:
    """The intervention at the positions that `Model.steer` knows."""
    if isinstance(positions, str) and positions in ("all", "answer"):
        return intervention if positions == "all" else intervention.from_last(1)
    if isinstance(positions, int) and not isinstance(positions, bool) and positions >= 1:
        return intervention.from_last(positions)
    raise ValueError(
        f"steer: expected positions 'all', 'answer' or a number of last prompt tokens, got "
        f"{positions!r}; choose one"
    )
