"""Activations along a circuit's own contrast: 1 is the mean difference between its two sets.

    share_j = delta_j a_j / sum of delta^2           s = sum of the shares

Over the discovery prompts the mean of s at the last token of the positive ones is exactly 1 above that
of the negative ones; shares of neurons, and so of layers, add up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import Circuit


def along(circuit: Circuit, activations: Any, function: str) -> NDArray[np.float64]:
    """Each neuron's share of s, from activations [..., neurons] in the circuit's order.

    Raises:
        ValueError: a circuit whose deltas are all 0.
    """
    delta = np.array([neuron.delta for neuron in circuit])
    if not (delta != 0).any():
        raise ValueError(
            f"{function}: expected a circuit with deltas, got 0 for every neuron; find it with "
            "cna.discover"
        )
    shares: NDArray[np.float64] = np.asarray(activations, np.float64) * delta / (delta**2).sum()
    return shares
