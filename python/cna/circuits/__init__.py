"""Prompts in, neurons or vectors out."""

from __future__ import annotations

from .contribution import contributions
from .discovery import discover
from .expert_use import expert_use
from .gate import fit_gate
from .operation import Operation, mean_activations
from .random_control import random_like
from .recording import by_layer, record, record_sparse
from .universal import UniversalNeurons, universal_neurons
from .vectors import SteeringVector, caa, caa_mlp, mean_difference

__all__ = [
    "Operation",
    "SteeringVector",
    "UniversalNeurons",
    "by_layer",
    "caa",
    "caa_mlp",
    "contributions",
    "discover",
    "expert_use",
    "fit_gate",
    "mean_activations",
    "mean_difference",
    "random_like",
    "record",
    "record_sparse",
    "universal_neurons",
]
