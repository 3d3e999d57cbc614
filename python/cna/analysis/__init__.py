"""What a circuit looks like and how far it can be trusted: layers, overlap, stability, chance."""

from __future__ import annotations

from .localisation import (
    BaseAgainstInstruct,
    CircuitComparison,
    Concentration,
    base_against_instruct,
    compare_circuits,
    concentration,
    layer_table,
)
from .permutation import PermutationNull, permutation_null
from .recordings import Recordings, record_sets
from .size import SmallestK, rate_reduction, smallest_k
from .stability import Stability, stability

__all__ = [
    "BaseAgainstInstruct",
    "CircuitComparison",
    "Concentration",
    "PermutationNull",
    "Recordings",
    "SmallestK",
    "Stability",
    "base_against_instruct",
    "compare_circuits",
    "concentration",
    "layer_table",
    "permutation_null",
    "rate_reduction",
    "record_sets",
    "smallest_k",
    "stability",
]
