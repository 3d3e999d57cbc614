"""Operations: what a strength does to the neurons of a circuit, beside scaling them.

scale    a <- m * a                   m: 1 changes nothing, 0 ablates
shift    a <- a - c * delta           c: 0 changes nothing, 1 takes the whole difference away
towards  a <- a + c * (target - a)    c: 0 changes nothing, 1 sets the other set's mean
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.errors import first_line
from ..base.files import write_whole
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts

STEERING = "steering.json"  # beside circuit.json: what a run chose to do with it

OPERATIONS = ("scale", "shift", "towards")


@dataclasses.dataclass(frozen=True)
class Operation:
    """A circuit, and what a strength does to its neurons: `model.steer(Operation.shift(circuit), 1)`.

    Attributes:
        name: "scale", "shift" or "towards".
        target: of "towards", [n_layers, width]; see `mean_activations`.
    """

    circuit: _core.Circuit
    name: str = "scale"
    target: Tensor | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise ValueError(
                f"Operation: expected {', '.join(OPERATIONS)}, got {self.name!r}; choose one"
            )
        if (self.target is None) == (self.name == "towards"):
            given = "none" if self.target is None else "one"
            raise ValueError(
                f"Operation: expected a target for 'towards' and no other, got {given} for "
                f"{self.name!r}; take it from cna.mean_activations"
            )

    @classmethod
    def scale(cls, circuit: _core.Circuit) -> Operation:
        """a <- m * a"""
        return cls(circuit)

    @classmethod
    def shift(cls, circuit: _core.Circuit) -> Operation:
        """a <- a - c * delta, with the delta that the circuit was found with.

        At all neurons of a layer it is -c times the MLP's part of CAA in that layer.
        """
        return cls(circuit, "shift")

    @classmethod
    def towards(cls, circuit: _core.Circuit, target: Tensor) -> Operation:
        """a <- a + c * (target - a), with a target [n_layers, width]."""
        return cls(circuit, "towards", target)

    @property
    def neutral(self) -> float:
        """The strength that changes nothing."""
        return 1.0 if self.name == "scale" else 0.0

    def intervention(self, strengths: Sequence[float]) -> _core.Intervention:
        """One arm per strength. Raises ValueError for strengths that are not finite."""
        if self.name == "scale":
            return _core.Intervention.scale(self.circuit, list(strengths))
        if self.name == "shift":
            return _core.Intervention.shift(self.circuit, list(strengths))
        assert self.target is not None
        return _core.Intervention.towards(self.circuit, self.target, list(strengths))


def mean_activations(
    model: Model,
    prompts: Prompts,
    *,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """Mean of every neuron at the last token of prompts, float64 [n_layers, width].

    Inside `with model.steer(...)` those of the steered model.
    """
    ids = model.tokenize(prompts, chat)
    intervention, _ = model._steering(1)
    with bar("means", progress) as update:
        both = model.core.contrast(
            ids, ids[:1], intervention=intervention, batch_rows=batch_size, progress=update
        )
    return both[0]["mean"]


def save_steering(operation: Operation, strength: float, folder: Path) -> Path:
    """Writes circuit.json and steering.json: neurons, operation, strength, targets."""
    operation.circuit.save(folder / "circuit.json")
    values: dict[str, Any] = {"operation": operation.name, "strength": strength}
    if operation.target is not None:
        values["target"] = [float(operation.target[n.layer, n.index]) for n in operation.circuit]
    path = folder / STEERING
    text = json.dumps(values, indent=1) + "\n"
    write_whole(path, lambda p: p.write_text(text, encoding="utf-8"))
    return path


def load_steering(path: str | os.PathLike[str]) -> tuple[Operation, float | None]:
    """(what to do, its strength) of a circuit's file or of a run folder.

    A file, and a folder without steering.json, scale at no strength of their own (None).
    Raises FileNotFoundError for a missing file, ValueError for one that is not such a file.
    """
    path = Path(path)
    if not path.is_dir():
        return Operation(_core.Circuit.load(path)), None
    circuit = _core.Circuit.load(path / "circuit.json")
    file = path / STEERING
    if not file.exists():
        return Operation(circuit), None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        name, strength, target = values["operation"], float(values["strength"]), None
        if "target" in values:
            target = torch.zeros(*circuit.shape, dtype=torch.float64)
            for neuron, value in zip(circuit, values["target"], strict=True):
                target[neuron.layer, neuron.index] = float(value)
        return Operation(circuit, name, target), strength
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"load_steering: expected operation, strength and, where it moves towards one, a target "
            f"per neuron in '{file}', got {first_line(error)}; write it again with tune"
        ) from None
