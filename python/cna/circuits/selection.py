"""Selection: the moments of both sets become a circuit; a difference at rounding is said."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..hosts.model import Model
from .universal import UniversalNeurons

# Between two batches of one prompt, relative to a layer's activations (root of the mean square).
_ROUNDING = 1e-5
_ROUNDINGS = 8.0  # of a number's last place, where that is more


RANKINGS = ("mean_difference", "effect_size")  # by the two sets' moments alone
ALL_RANKINGS = (*RANKINGS, "contribution", "residual", "direction")


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


def layer_range(layers: Sequence[int] | range | None, n_layers: int) -> tuple[int, int] | None:
    """(first, last) of what `discover` takes as `layers`; negative ones count from the end.

    Raises ValueError for anything but two layers, IndexError for layers that there are not.
    """
    if layers is None:
        return None
    ends = (layers[0], layers[-1]) if isinstance(layers, range) and layers else tuple(layers)
    steps = layers.step if isinstance(layers, range) else 1
    if len(ends) != 2 or steps != 1:
        raise ValueError(
            f"discover: expected layers=(first, last) or a range without steps, got {layers!r}; both "
            "ends count"
        )
    first, last = (int(e) + n_layers if e < 0 else int(e) for e in ends)
    if not 0 <= first <= last < n_layers:
        raise IndexError(
            f"discover: expected layers between 0 and {n_layers - 1}, got {ends[0]} to {ends[1]}; "
            "choose others"
        )
    return first, last


def select(
    model: Model,
    moments: tuple[dict[str, Any], dict[str, Any]],
    removed: UniversalNeurons | None,
    score: Tensor | None = None,
    **selection: Any,
) -> _core.Circuit:
    """The top k of two sets' moments, as `Model.core.contrast` gives them.

    `selection`: fraction, k, ranking and the rest of what `Model.core.select` takes; `score` where
    the ranking needs more than moments. Warns as `warn_of_rounding` does.
    """
    kept_out = list(removed.neurons) if removed else []
    circuit = model.core.select(*moments, score, universal=kept_out, **selection)
    warn_of_rounding(model, moments, circuit)
    return circuit


def warn_of_rounding(
    model: Model, moments: tuple[dict[str, Any], dict[str, Any]], circuit: _core.Circuit
) -> None:
    """Warns where every neuron's delta is at the rounding of its layer's activations.

    The model then saw no difference between the sets. The line shown is that of the caller's caller's
    caller.
    """
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
                stacklevel=4,
            )
