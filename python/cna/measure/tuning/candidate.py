"""Candidates: one way to pick neurons and to change them, as a search proposes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

OPERATION_RANGES = {"scale": (-1.0, 0.9), "shift": (0.1, 3.0), "towards": (0.1, 2.0)}
RANKINGS = ("contribution", "mean_difference", "effect_size", "residual", "direction")
PENALTIES = (0.02, 0.5)
DEPTHS = (0.0, 0.75)  # of the first layer that may be taken, as a share of the depth
SIZES = (0.25, 4.0)  # times a thousandth of the model


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a search proposes.

    Attributes:
        penalty: of a contribution, 0 elsewhere.
        first_layer: the lowest one that neurons are taken from.
        strength: m of "scale", c of "shift" and "towards".
    """

    ranking: str
    k: int
    first_layer: int
    operation: str
    strength: float
    penalty: float = 0.0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Candidate:
        """The candidate of a table's row."""
        fields = {f.name: row[f.name] for f in dataclasses.fields(cls)}
        return cls(**fields | {"k": int(row["k"]), "first_layer": int(row["first_layer"])})

    @property
    def name(self) -> str:
        """Short and whole: contribution 0.1, k 46, from layer 0, scale 0."""
        penalty = f" {self.penalty:g}" if self.ranking == "contribution" else ""
        return (
            f"{self.ranking}{penalty}, k {self.k}, from layer {self.first_layer}, "
            f"{self.operation} {self.strength:g}"
        )

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Trial(Protocol):
    """What a proposal is drawn from; Optuna's trials are such."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...


def suggest(trial: Trial, n_layers: int, neurons: int) -> Candidate:
    """The candidate that a trial stands for; the same parameters give the same candidate."""
    ranking = trial.suggest_categorical("ranking", list(RANKINGS))
    penalty = 0.0
    if ranking == "contribution":
        penalty = round(trial.suggest_float("penalty", *PENALTIES, log=True), 3)
    size = trial.suggest_float("size", *SIZES, log=True)
    depth = trial.suggest_float("depth", *DEPTHS)
    operation = trial.suggest_categorical("operation", list(OPERATION_RANGES))
    low, high = OPERATION_RANGES[operation]
    strength = round(trial.suggest_float(f"{operation}_strength", low, high), 2)
    k = max(1, round(size * neurons / 1000))
    return Candidate(ranking, k, int(depth * n_layers), operation, strength, penalty)


def starting_points() -> list[dict[str, Any]]:
    """Parameters of the first trials: what one would try by hand."""
    common: dict[str, Any] = {"size": 1.0, "depth": 0.0, "operation": "scale"}
    by_hand = [("contribution", 0.0), ("contribution", -0.5), ("mean_difference", 0.0)]
    out = [
        common | {"ranking": ranking, "penalty": 0.1, "scale_strength": m} for ranking, m in by_hand
    ]
    out += [common | {"ranking": "contribution", "penalty": 0.2, "scale_strength": -0.5}]
    out += [common | {"ranking": "residual", "scale_strength": 0.0}]
    out += [common | {"ranking": "direction", "scale_strength": 0.0}]
    shift = common | {"operation": "shift", "shift_strength": 1.0}
    out += [shift | {"ranking": "contribution", "penalty": 0.1}]
    towards = common | {"operation": "towards", "towards_strength": 1.0}
    return [*out, towards | {"ranking": "contribution", "penalty": 0.1}]
