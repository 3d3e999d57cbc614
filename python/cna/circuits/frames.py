"""A circuit as a table."""

from __future__ import annotations

from .._core import Circuit
from ..base.later import pd


def to_frame(circuit: Circuit) -> pd.DataFrame:
    """A row a neuron, strongest first: rank, layer, index, delta; of a mixture also expert, in_expert.

    expert is None where every token sees the neuron; in_expert is its place in the expert, or behind
    all.
    """
    frame = pd.DataFrame(
        {
            "rank": range(len(circuit)),
            "layer": [n.layer for n in circuit],
            "index": [n.index for n in circuit],
            "delta": [n.delta for n in circuit],
        }
    )
    if circuit.experts:
        places = [circuit.expert_of(n.layer, n.index) for n in circuit]
        frame["expert"] = pd.array([expert for expert, _ in places], dtype="Int64")
        frame["in_expert"] = [index for _, index in places]
    return frame
