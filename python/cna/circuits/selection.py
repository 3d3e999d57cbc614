"""Selection: the moments of both sets become a circuit; a difference at rounding is said."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .. import _core
from ..hosts.model import Model
from .universal import UniversalNeurons

# Between two batches of one prompt, relative to a layer's activations (root of the mean square).
_ROUNDING = 1e-5
_ROUNDINGS = 8.0  # of a number's last place, where that is more


RANKINGS = ("mean_difference", "effect_size")  # by the two sets' moments alone
ALL_RANKINGS = (*RANKINGS, "contribution")


def require_ranking(
    ranking: str, function: str = "discover", known: tuple[str, ...] = RANKINGS
) -> None:
    """Raises ValueError for a ranking that there is not, before the work."""
    if ranking not in known:
        names = [repr(name) for name in known]
        raise ValueError(
            f"{function}: expected ranking {', '.join(names[:-1])} or {names[-1]}, got {ranking!r}; "
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

    Warns where every neuron's delta is at the rounding of its layer's activations: the model then
    saw no difference between the sets.
    """
    circuit = model.core.select(
        *moments,
        fraction=fraction,
        k=k,
        universal=list(removed.neurons) if removed else [],
        ranking=ranking,
    )
    if len(circuit):
        means = torch.stack([side["mean"] for side in moments])
        size = means.square().mean((0, 2)).sqrt()  # [n_layers]
        layers = torch.tensor([n.layer for n in circuit.neurons])
        delta = torch.tensor([abs(n.delta) for n in circuit.neurons], dtype=torch.float64)
        limit = max(_ROUNDING, _ROUNDINGS * torch.finfo(model.dtype).eps)
        if bool((delta <= limit * size[layers]).all()):
            warnings.warn(
                "discover: the two sets differ by rounding only (largest |delta| "
                f"{float(delta.max()):.1e}); these neurons stand for no behaviour: look at what the "
                "model sees with model.tokenize(prompts)",
                stacklevel=3,
            )
    return circuit
