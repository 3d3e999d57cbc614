"""The control: random neurons, as many per layer as a circuit has."""

from __future__ import annotations

from .. import _core
from .provenance import circuit_hash


def random_like(circuit: _core.Circuit, seed: int = 0, avoid: bool = True) -> _core.Circuit:
    """Random neurons, as many per layer as the circuit has: the control for its effect.

    Args:
        seed: the same seed gives the same neurons.
        avoid: draw the circuit's own neurons only where a layer has too few others.
    Returns:
        A circuit whose provenance names the seed and, as "like", the hash of the circuit.
    """
    return _core.random_like(circuit, seed, avoid).with_provenance(like=circuit_hash(circuit))
