"""Selection: the moments of both sets become a circuit; a difference at rounding is said."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .. import _core
from ..hosts.model import Model
from .universal import UniversalNeurons

_ROUNDINGS = 8.0  # of a number's last place, between two batches of one prompt


RANKINGS = ("mean_difference", "effect_size")


def require_ranking(ranking: str, function: str = "discover") -> None:
    """Raises ValueError for a ranking that there is not, before the work."""
    if ranking not in RANKINGS:
        raise ValueError(
            f"{function}: expected ranking 'mean_difference' or 'effect_size', got {ranking!r}; "
            "choose one"
        )


def select(
    model: Model,
    moments: tuple[dict[str, Any], dict[str, Any]],
    removed: UniversalNeurons | None,
    *,
    fraction: float,
    k: int | None,
    ranking: str,
) -> _core.Circuit:
    """The top k of two sets' moments, as `Model.core.contrast` gives them.

    Warns where every neuron's delta is at the rounding of its own activation: the model then saw no
    difference between the sets.
    """
    circuit = model.core.select(
        *moments,
        fraction=fraction,
        k=k,
        universal=list(removed.neurons) if removed else [],
        ranking=ranking,
    )
    places = [(n.layer, n.index) for n in circuit.neurons]
    if places:
        layers, indices = (torch.tensor(part) for part in zip(*places, strict=True))
        size = torch.maximum(*(side["mean"][layers, indices].abs() for side in moments))
        delta = torch.tensor([abs(n.delta) for n in circuit.neurons], dtype=torch.float64)
        if bool((delta <= _ROUNDINGS * torch.finfo(model.dtype).eps * size).all()):
            warnings.warn(
                "discover: the two sets differ by rounding only (largest |delta| "
                f"{float(delta.max()):.1e}); these neurons stand for no behaviour: look at what the "
                "model sees with model.tokenize(prompts)",
                stacklevel=3,
            )
    return circuit
