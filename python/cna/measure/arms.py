"""Arms of a sweep: each is one way to steer, with a method, a layer where it has one, a strength."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from .. import _core
from ..circuits.discovery import discover
from ..circuits.provenance import circuit_hash
from ..circuits.random_control import random_like
from ..circuits.vectors import SteeringVector, caa, caa_mlp
from ..hosts.model import Model
from ..prompts.tasks import Task
from .options import BASELINES, SweepOptions

__all__ = ["BASELINES", "Arm", "build_arms", "neuron_arms", "size_arms", "vector_arms"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to steer: a method, its layer where it has one, and a strength.

    strength is the multiplier m for neuron methods and the coefficient for steering vectors.
    source is what a run's files say of where it comes from: a circuit's hash, the seed of a draw.
    """

    method: str
    layer: int | None
    strength: float
    intervention: _core.Intervention = dataclasses.field(repr=False, compare=False)
    source: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

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
    source = {"circuit": circuit_hash(circuit)}
    if "seed" in circuit.provenance:  # a random draw
        source["seed"] = circuit.provenance["seed"]
    return [
        Arm(method, None, m, _core.Intervention.scale(circuit, [m]), source) for m in multipliers
    ]


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
    options: SweepOptions,
    *,
    progress: bool = True,
) -> list[Arm]:
    """The arms of a sweep; the first one is the model itself."""
    arms = [Arm("cna", None, 1.0, _core.Intervention(1))]
    steered = [m for m in options.strengths if m != 1.0]
    arms += neuron_arms("cna", circuit, steered)
    if "random" in options.baselines:
        for seed in options.random_seeds:
            name = "random" if options.random_seeds == (0,) else f"random-{seed}"
            arms += neuron_arms(name, random_like(circuit, seed), steered)
    record: dict[str, Any] = {
        "chat": task.chat,
        "batch_size": options.batch_size,
        "progress": progress,
    }
    sets = task.positive, task.negative
    if "no-filter" in options.baselines:
        ranking = str(circuit.provenance.get("ranking", "mean_difference"))
        plain = discover(model, *sets, k=len(circuit), universal=None, ranking=ranking, **record)
        arms += neuron_arms("no-filter", plain, steered)
    if "caa" in options.baselines:
        layers = options.caa_layers
        if layers is None:
            layers = sorted({model.n_layers * part // 6 for part in (2, 3, 4, 5)})
        arms += vector_arms(caa(model, *sets, layers=layers, **record), options.caa_coefficients)
    if "caa-mlp" in options.baselines:
        everywhere = caa_mlp(model, *sets, **record)
        arms += vector_arms(everywhere, options.caa_coefficients, per_layer=False)
    return arms
