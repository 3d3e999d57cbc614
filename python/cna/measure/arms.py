"""The arms of a sweep: the circuit at its strengths, with the controls and baselines asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from .. import _core
from ..circuits.discovery import discover
from ..circuits.vectors import caa, caa_mlp
from ..hosts.model import Model
from ..prompts.tasks import Task
from .arm import Arm, neuron_arms, operation_arms, vector_arms
from .baselines import logit_bias_arms, prompt_arms
from .options import BASELINES, SweepOptions
from .random_draws import matched_arms, random_arms

OTHER_RANKINGS = {"contribution": "contribution", "delta": "mean_difference"}

__all__ = [
    "BASELINES",
    "Arm",
    "build_arms",
    "neuron_arms",
    "operation_arms",
    "size_arms",
    "vector_arms",
]


def size_arms(
    model: Model,
    task: Task,
    sizes: Sequence[int],
    multiplier: float = 0.0,
    *,
    universal: Any = "default",
    ranking: str = "mean_difference",
) -> list[Arm]:
    """One arm per circuit size k, for `sweep(..., arms=...)`; named k=10, k=46 ...

    Args:
        sizes: numbers of neurons; a fraction f of the model is round(f * model.n_neurons).
        ranking: as in `cna.discover`.
    """

    arms = []
    for k in sizes:
        circuit = discover(
            model,
            task.positive,
            task.negative,
            k=k,
            universal=universal,
            ranking=ranking,
            chat=task.chat,
        )
        name = f"k={k}" if ranking == "mean_difference" else f"k={k} by {ranking.replace('_', ' ')}"
        arms += neuron_arms(name, circuit, [multiplier])
    return arms


def build_arms(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    options: SweepOptions,
    *,
    progress: bool = True,
) -> list[Arm]:
    """The arms of a sweep; the first one is the model itself."""
    arms = [Arm("cna", None, 1.0, _core.Intervention(1), kind="model")]
    steered = [m for m in options.strengths if m != 1.0]
    arms += neuron_arms("cna", circuit, steered)
    wanted = options.baselines
    if "random" in wanted:
        arms += random_arms(circuit, options)
    if "random-kl" in wanted:
        arms += matched_arms(model, circuit, task, options, progress)
    record: dict[str, Any] = {"batch_size": options.batch_size, "progress": progress}
    sides = task.positive, task.negative
    if "no-filter" in wanted:
        how = _found_by(circuit)
        how |= {"k": len(circuit), "universal": None, "chat": task.chat}
        plain = discover(model, task.positive, task.negative, **how, **record)
        arms += neuron_arms("no-filter", plain, steered)
    for name, ranking in OTHER_RANKINGS.items():
        if name not in wanted:
            continue
        try:
            ranked = discover(
                model, *sides, k=len(circuit), ranking=ranking, chat=task.chat, **record
            )
        except _core.NonFiniteError:
            raise
        except RuntimeError as error:  # the model does not know its weights
            warnings.warn(f"sweep: without the baseline {name!r}: {error}", stacklevel=2)
        else:
            arms += neuron_arms(name, ranked, steered)
    if "caa" in wanted or "caa-answer" in wanted:
        layers = options.caa_layers
        if layers is None:
            layers = sorted({model.n_layers * part // 6 for part in (2, 3, 4, 5)})
        vector = caa(model, *sides, layers=layers, chat=task.chat, **record)
        if "caa" in wanted:
            arms += vector_arms(vector, options.caa_coefficients)
        if "caa-answer" in wanted:
            arms += vector_arms(vector.from_answer(), options.caa_coefficients)
    if "caa-mlp" in wanted:
        everywhere = caa_mlp(model, *sides, chat=task.chat, **record)
        arms += vector_arms(everywhere, options.caa_coefficients, per_layer=False)
    if "prompt" in wanted:
        arms += prompt_arms(task, options.prompt_baseline)
    if "logit-bias" in wanted:
        arms += logit_bias_arms(model, task, options.logit_biases, **record)
    return arms


def _found_by(circuit: _core.Circuit) -> dict[str, Any]:
    """How a circuit was ranked and where, as `discover` takes it, from its provenance.

    Raises ValueError for a direction that was given, which no provenance holds.
    """
    said = circuit.provenance
    if said.get("direction") == "given":
        raise ValueError(
            "sweep: expected a circuit that can be found again for the baseline 'no-filter', got one "
            "along a given direction; leave that baseline out"
        )
    names = ("ranking", "penalty", "side", "layers", "direction_layer")
    return {name: said[name] for name in names if said.get(name) is not None}
