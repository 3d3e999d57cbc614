"""Random controls: draws as large as the circuit, and the same draws as disturbing as the circuit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from .. import _core
from ..circuits.random_control import random_like
from ..hosts.model import Model
from ..prompts.tasks import Task
from .arm import Arm, neuron_arms
from .divergence import divergence
from .options import SweepOptions

CALIBRATION_PROMPTS = 8  # benign ones, by which draws are matched; kl_benign is over more of them
_CALIBRATION_TOKENS = 8
_ROUNDS = 6
_NEAR = 0.05  # of the target, relative
_MOST = 64.0  # times the circuit's own distance from m = 1: neurons that are never active stop here


def random_arms(circuit: _core.Circuit, options: SweepOptions) -> list[Arm]:
    """As many random neurons per layer as the circuit has, at its main multiplier, one arm a draw."""
    m = options.main_multiplier
    if m is None:
        return []
    return [
        _draw("random", random_like(circuit, seed), m, seed, options)
        for seed in options.random_seeds
    ]


def matched_arms(
    model: Model, circuit: _core.Circuit, task: Task, options: SweepOptions, progress: bool
) -> list[Arm]:
    """The draws of `random_arms`, each at the multiplier where its benign KL is the circuit's.

    The KL is that along the model's own answers to the first benign prompts.
    Raises ValueError for a task without benign prompts.
    """
    m = options.main_multiplier
    if m is None:
        return []
    if not task.benign:
        raise ValueError(
            f"sweep: expected benign prompts to match random neurons by, got none in {task.name!r}; "
            "add some to the task, or leave out the baseline 'random-kl'"
        )
    ids = model.tokenize(task.benign[:CALIBRATION_PROMPTS], task.chat)
    active, _ = model._steering(1)
    said = model.core.generate(
        ids,
        max_new_tokens=min(options.max_new_tokens, _CALIBRATION_TOKENS),
        intervention=active,
        batch_rows=options.batch_size,
    )
    kept = [i for i, tokens in enumerate(said) if tokens]
    ids, said = [ids[i] for i in kept], [said[i] for i in kept]

    def kl_of(circuits: Sequence[_core.Circuit], multipliers: Sequence[float]) -> list[float]:
        arms = [_core.Intervention(1)]
        arms += [
            _core.Intervention.scale(c, [x]) for c, x in zip(circuits, multipliers, strict=True)
        ]
        kl = divergence(
            model, arms, ids, said, batch_size=options.batch_size, title="match", show=progress
        )
        return kl[1:].mean(1).tolist()

    draws = [random_like(circuit, seed) for seed in options.random_seeds]
    (target,) = kl_of([circuit], [m])

    def kl_of_draws(which: Sequence[int], multipliers: Sequence[float]) -> list[float]:
        return kl_of([draws[i] for i in which], multipliers)

    found = matched_multipliers(kl_of_draws, len(draws), target, 1.0 - m)
    return [
        _draw("random-kl", drawn, x, seed, options)
        for drawn, x, seed in zip(draws, found, options.random_seeds, strict=True)
    ]


def matched_multipliers(
    kl_of: Callable[[Sequence[int], Sequence[float]], Sequence[float]],
    n: int,
    target: float,
    first: float,
) -> list[float]:
    """Multipliers m of n draws whose KL is `target`, by bisection in the logarithm of |1 - m|.

    KL grows about with the square of |1 - m|, which gives the next guess until the target lies
    between two; the nearest one tried is returned, to three decimals. A draw that is near is done.

    Args:
        kl_of: numbers of draws, and the multiplier of each -> their KL, nats per token.
        first: 1 - m of the first guess.
    """
    sign, start = math.copysign(1.0, first), max(abs(first), 1e-3)
    if not math.isfinite(target) or target <= 0:
        return [1.0 - first] * n
    size = [start] * n
    low, high = [0.0] * n, [math.inf] * n
    best = [(math.inf, -start)] * n  # the gap, then the larger size
    for _ in range(_ROUNDS):
        open_draws = [i for i in range(n) if best[i][0] > _NEAR]
        if not open_draws:
            break
        values = kl_of(open_draws, [round(1.0 - sign * size[i], 3) for i in open_draws])
        for i, value in zip(open_draws, values, strict=True):
            gap = abs(math.log(value / target)) if value > 0 else math.inf
            best[i] = min(best[i], (gap, -size[i]))
            if value < target:
                low[i] = max(low[i], size[i])
            else:
                high[i] = min(high[i], size[i])
            size[i] = _next(size[i], value, target, low[i], high[i], _MOST * start)
    return [round(1.0 + sign * s, 3) for _, s in best]


def _next(size: float, value: float, target: float, low: float, high: float, most: float) -> float:
    ratio = target / value if value > 0 else math.inf
    guess = size * min(8.0, max(0.125, math.sqrt(ratio)))
    if low > 0 and high < math.inf and not low < guess < high:
        guess = math.sqrt(low * high)
    return min(guess, most)


def _draw(name: str, drawn: _core.Circuit, m: float, seed: int, options: SweepOptions) -> Arm:
    (arm,) = neuron_arms(name, drawn, [m], kind="random", draw=seed)
    return dataclasses.replace(arm, max_prompts=options.random_prompts, benign=False)
