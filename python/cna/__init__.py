"""cna: find, prove and steer the few MLP neurons behind a behaviour of a language model.

    model = cna.load("smollm2")
    circuit = cna.discover(model, positive, negative)
    with model.steer(circuit, multiplier=0.0):
        print(model.generate(["Start the washing machine"])[0])

Method: contrastive neuron attribution, arXiv 2605.12290.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ._build import torch_version as _built_against

if torch.__version__.split(".")[:2] != _built_against.split(".")[:2]:
    raise ImportError(
        f"cna: expected PyTorch {_built_against} as built, got {torch.__version__}; rebuild it: "
        "pip install --no-build-isolation --force-reinstall --no-deps cna"
    )

from . import _core, analysis, doctor, judges, prompts, tasks
from ._core import Circuit, Intervention, Neuron, Overlap, compare
from .convert import Conversion, convert
from .discovery import UniversalNeurons, discover, record, universal_neurons
from .export import export
from .live import live
from .loading import load
from .model import Model
from .reproduce import Reproduction, reproduce
from .steering import SteeringVector, caa, caa_mlp, random_like
from .sweep import SweepResult, sweep

__version__: str = _core.version


def __getattr__(name: str) -> Any:
    """`cna.plots` on first use: matplotlib takes a while to import."""
    if name == "plots":
        return importlib.import_module(".plots", __name__)
    raise AttributeError(f"module 'cna' has no attribute '{name}'")


__all__ = [
    "Circuit",
    "Conversion",
    "Intervention",
    "Model",
    "Neuron",
    "Overlap",
    "Reproduction",
    "SteeringVector",
    "SweepResult",
    "UniversalNeurons",
    "analysis",
    "caa",
    "caa_mlp",
    "compare",
    "convert",
    "discover",
    "doctor",
    "export",
    "judges",
    "live",
    "load",
    "prompts",
    "random_like",
    "record",
    "reproduce",
    "sweep",
    "tasks",
    "universal_neurons",
]
