"""The control: random neurons, as many per layer as a circuit has."""

from __future__ import annotations

import torch

from .. import _core


def random_like(circuit: _core.Circuit, seed: int = 0, avoid: bool = True) -> _core.Circuit:
    """Random neurons, as many per layer as the circuit has: the control for its effect.

    Args:
        avoid: draw none of the circuit's own neurons.
    """
    generator = torch.Generator().manual_seed(seed)
    neurons = []
    for layer, count in enumerate(circuit.layer_counts):
        order = torch.randperm(circuit.shape[1], generator=generator).tolist()
        free = [i for i in order if not (avoid and (layer, i) in circuit)]
        neurons += [_core.Neuron(layer, i, 0.0) for i in (free or order)[:count]]
    return _core.Circuit(
        circuit.shape, neurons, {"operation": "random_like", "seed": seed, "avoid": avoid}
    )
