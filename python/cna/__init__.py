"""cna: find, prove and steer the few MLP neurons behind a behaviour of a language model.

    model = cna.load("smollm2")
    circuit = cna.discover(model, positive, negative)
    with model.steer(circuit, multiplier=0.0):
        print(model.generate(["Start the washing machine"])[0])

Method: contrastive neuron attribution, arXiv 2605.12290.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from ._build import torch_version as _built_against

if torch.__version__.split(".")[:2] != _built_against.split(".")[:2]:
    raise ImportError(
        f"cna: expected PyTorch {_built_against} as built, got {torch.__version__}; rebuild it in its "
        "source folder: pip install --no-build-isolation --force-reinstall --no-deps . (the "
        "distribution is cna-neurons; the index's cna is another project)"
    )

from . import _core, analysis, prompts
from ._core import Circuit, Gate, Intervention, Neuron, NonFiniteError, Overlap, Watch, compare
from .analysis.cards import Card, Cards
from .analysis.probe import Probe
from .base.names import PLACES, register
from .circuits import (
    Operation,
    SteeringVector,
    UniversalNeurons,
    by_layer,
    caa,
    caa_mlp,
    contributions,
    discover,
    expert_use,
    fit_gate,
    mean_activations,
    random_like,
    record,
    record_sparse,
    universal_neurons,
)
from .hosts.capabilities import capabilities
from .hosts.chat import Chat
from .hosts.export import export
from .hosts.live_open import live
from .hosts.loading import load
from .hosts.model import Model
from .hosts.steered import steered
from .measure.options import SweepOptions
from .measure.result import SweepResult
from .measure.sweep import sweep
from .measure.tuning import TuneResult, tune
from .paper import Reproduction, reproduce
from .prompts import judges, tasks
from .ship import Conversion, circuit_methods, convert
from .show import drawing
from .show.token_view import TokenView

if TYPE_CHECKING:
    from .cli import doctor
    from .show import plots as plots

__version__: str = _core.version
SweepResult.drawing = drawing  # measuring imports no drawing
circuit_methods.register()
register()


def __getattr__(name: str) -> Any:
    """`cna.plots` and its like on first use: matplotlib takes a while to import."""
    if name in PLACES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'cna' has no attribute '{name}'")


__all__ = [
    "Card",
    "Cards",
    "Chat",
    "Circuit",
    "Conversion",
    "Gate",
    "Intervention",
    "Model",
    "Neuron",
    "NonFiniteError",
    "Operation",
    "Overlap",
    "Probe",
    "Reproduction",
    "SteeringVector",
    "SweepOptions",
    "SweepResult",
    "TokenView",
    "TuneResult",
    "UniversalNeurons",
    "Watch",
    "analysis",
    "by_layer",
    "caa",
    "caa_mlp",
    "capabilities",
    "compare",
    "contributions",
    "convert",
    "discover",
    "doctor",
    "expert_use",
    "export",
    "fit_gate",
    "judges",
    "live",
    "load",
    "mean_activations",
    "prompts",
    "random_like",
    "record",
    "record_sparse",
    "reproduce",
    "steered",
    "sweep",
    "tasks",
    "tune",
    "universal_neurons",
]
