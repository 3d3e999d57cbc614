"""Arms of a sweep: each is one way to steer, with a method, a layer where it has one, a strength."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from .. import _core
from ..circuits.discovery import discover
from ..circuits.random_control import random_like
from ..circuits.vectors import SteeringVector, caa, caa_mlp
from ..hosts.model import Model
from ..prompts.tasks import Task

BASELINES = ("random", "caa", "caa-mlp", "no-filter")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to steer: a method, its layer where it has one, and a strength.

    strength is the multiplier m for neuron methods and the coefficient for steering vectors.
    """

    method: str
    layer: int | None
    strength: float
    intervention: _core.Intervention = dataclasses.field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """Name of the arm in a run's files."""
        layer = "" if self.layer is None else self.layer
        return f"{self.method}|{layer}|{float(self.strength)!r}"

    @property
    def alpha(self) -> float:
        """The paper's axis: 1 - m for neurons, the coefficient for vectors."""
        return self.strength if self.method.startswith("caa") else 1.0 - self.strength


def neuron_arms(method: str, circuit: _core.Circuit, multipliers: Iterable[float]) -> list[Arm]:
    """One arm per multiplier for a set of neurons."""
    return [Arm(method, None, m, _core.Intervention.scale(circuit, [m])) for m in multipliers]


def vector_arms(
    vector: SteeringVector, coefficients: Iterable[float], per_layer: bool = True
) -> list[Arm]:
    """Layer x coefficient arms, or one arm per coefficient with all layers steered together."""
    if not per_layer:
        return [Arm(vector.name, None, c, vector.intervention([c])) for c in coefficients]
    return [
        Arm(vector.name, layer, c, vector.at(layer).intervention([c]))
        for layer in vector.vectors
        for c in coefficients
    ]


def size_arms(
    model: Model,
    task: Task,
    sizes: Sequence[int],
    multiplier: float = 0.0,
    *,
    universal: Any = "default",
    ranking: str = "mean_difference",
) -> list[Arm]:
    """One arm per circuit size k, for `sweep(..., arms=...)`; named k=10, k=46 ...

    Args:
        sizes: numbers of neurons; a fraction f of the model is round(f * n_layers * width).
        ranking: "mean_difference" or "effect_size".
    """

    arms = []
    for k in sizes:
        circuit = discover(
            model,
            task.positive,
            task.negative,
            k=k,
            universal=universal,
            ranking=ranking,
            chat=task.chat,
        )
        name = f"k={k}" if ranking == "mean_difference" else f"k={k} by effect size"
        arms += neuron_arms(name, circuit, [multiplier])
    return arms


def build_arms(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    multipliers: Sequence[float],
    baselines: Sequence[str],
    *,
    caa_layers: Sequence[int] | None = None,
    caa_coefficients: Sequence[float] = (-1.0, -0.5, -0.25),
    random_seeds: Sequence[int] = (0,),
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> list[Arm]:
    """The arms of a sweep; the first one is the model itself."""
    for name in baselines:
        if name not in BASELINES:
            raise ValueError(
                f"sweep: expected baselines among {list(BASELINES)}, got '{name}'; choose these"
            )
    for m in multipliers:
        if not math.isfinite(m):
            raise ValueError(f"sweep: expected finite multipliers, got {m}; pass numbers")
    strengths = sorted({1.0, *map(float, multipliers)})
    arms = [Arm("cna", None, 1.0, _core.Intervention(1))]
    arms += [a for a in neuron_arms("cna", circuit, strengths) if a.strength != 1.0]
    steered = [m for m in strengths if m != 1.0]
    if "random" in baselines:
        for seed in random_seeds:
            name = "random" if list(random_seeds) == [0] else f"random-{seed}"
            arms += neuron_arms(name, random_like(circuit, seed), steered)
    if "no-filter" in baselines:
        plain = discover(
            model,
            task.positive,
            task.negative,
            k=len(circuit),
            universal=None,
            chat=chat,
            batch_size=batch_size,
            progress=progress,
        )
        arms += neuron_arms("no-filter", plain, steered)
    if "caa" in baselines:
        layers = caa_layers
        if layers is None:
            layers = sorted({model.n_layers * part // 6 for part in (2, 3, 4, 5)})
        vector = caa(
            model,
            task.positive,
            task.negative,
            layers=layers,
            chat=chat,
            batch_size=batch_size,
            progress=progress,
        )
        arms += vector_arms(vector, caa_coefficients)
    if "caa-mlp" in baselines:
        vector = caa_mlp(
            model,
            task.positive,
            task.negative,
            chat=chat,
            batch_size=batch_size,
            progress=progress,
        )
        arms += vector_arms(vector, caa_coefficients, per_layer=False)
    return arms
