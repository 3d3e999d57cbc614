"""An arm of a sweep: one way to steer, with a method, a layer where it has one, a strength."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from .. import _core
from ..circuits.operation import Operation
from ..circuits.provenance import circuit_hash
from ..circuits.vectors import SteeringVector
from .kinds import KINDS, own_kind, require_kind


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to steer: a method, its layer where it has one, and a strength.

    Attributes:
        strength: the multiplier m for neurons, the coefficient for vectors and logit biases, 1 for
            an instruction that is given.
        kind: "circuit" (scaled neurons), "shift", "towards", "vector", "random", "prompt",
            "logit_bias" or "model"; by default that of a method of cna's own, and "circuit" for
            another name.
        draw: the seed of random neurons.
        prefix: an instruction put before each prompt, in the user's message.
        contrast: whether the coefficient is the paper's alpha.
        max_prompts: evaluation prompts that it answers, from the first; None: all.
        benign: whether it answers the benign prompts.
        source: what a run's files say of where it comes from: a circuit's hash, the seed of a draw.
    """

    method: str
    layer: int | None
    strength: float
    intervention: _core.Intervention = dataclasses.field(repr=False, compare=False)
    kind: str = ""
    draw: int | None = None
    prefix: str = ""
    contrast: bool = False
    max_prompts: int | None = None
    benign: bool = True
    source: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        kind = self.kind or own_kind(self.method)
        object.__setattr__(self, "kind", require_kind(kind, "Arm"))

    @property
    def key(self) -> str:
        """Name of the arm in a run's files."""
        layer = "" if self.layer is None else self.layer
        draw = "" if self.draw is None else f"|{self.draw}"
        return f"{self.method}|{layer}|{float(self.strength)!r}{draw}"

    @property
    def neutral(self) -> float:
        """The strength that changes nothing."""
        return KINDS[self.kind].neutral

    @property
    def alpha(self) -> float:
        """The paper's axis: 1 - m for neurons, c for contrast vectors (CAA), else NaN."""
        if KINDS[self.kind].symbol == "m":
            return 1.0 - self.strength
        return self.strength if self.contrast else math.nan

    def answers(self, name: str, index: int) -> bool:
        """Whether it answers a prompt of the set `name`, "evaluation" or "benign"."""
        if name != "evaluation":
            return self.benign
        return self.max_prompts is None or index < self.max_prompts


def neuron_arms(
    method: str,
    circuit: _core.Circuit,
    multipliers: Iterable[float],
    *,
    kind: str = "",
    draw: int | None = None,
) -> list[Arm]:
    """One arm per multiplier for a set of neurons; `kind` "random" for a control."""
    source = {"circuit": circuit_hash(circuit)}
    if "seed" in circuit.provenance:  # a random draw
        source["seed"] = circuit.provenance["seed"]
    return [
        Arm(
            method,
            None,
            m,
            _core.Intervention.scale(circuit, [m]),
            kind=kind,
            draw=draw,
            source=source,
        )
        for m in multipliers
    ]


def operation_arms(method: str, operation: Operation, strengths: Iterable[float]) -> list[Arm]:
    """One arm per strength of an operation on a circuit; what scales is `neuron_arms`."""
    if operation.name == "scale":
        return neuron_arms(method, operation.circuit, strengths)
    source = {"circuit": circuit_hash(operation.circuit), "operation": operation.name}
    return [
        Arm(method, None, c, operation.intervention([c]), kind=operation.name, source=source)
        for c in strengths
    ]


def vector_arms(
    vector: SteeringVector, coefficients: Iterable[float], per_layer: bool = True
) -> list[Arm]:
    """Layer x coefficient arms, or one arm per coefficient with all layers steered together."""
    parts = (
        [(layer, vector.at(layer)) for layer in vector.vectors] if per_layer else [(None, vector)]
    )
    coefficients = list(coefficients)
    return [
        Arm(
            vector.name,
            layer,
            c,
            part.intervention([c]),
            kind="vector",
            contrast=vector.contrast,
        )
        for layer, part in parts
        for c in coefficients
    ]
