"""What a circuit looks like and how far it can be trusted: layers, overlap, stability, chance."""

from __future__ import annotations

from ..circuits.layer_table import late_shares
from ..circuits.layers import LayersByRanking, layers_by_ranking
from .base_instruct import BaseAgainstInstruct, base_against_instruct
from .localisation import (
    CircuitComparison,
    Concentration,
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
    "LayersByRanking",
    "PermutationNull",
    "Recordings",
    "SmallestK",
    "Stability",
    "base_against_instruct",
    "compare_circuits",
    "concentration",
    "late_shares",
    "layer_table",
    "layers_by_ranking",
    "permutation_null",
    "rate_reduction",
    "record_sets",
    "smallest_k",
    "stability",
]
