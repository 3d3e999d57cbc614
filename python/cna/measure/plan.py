"""The plan of a sweep: which arms answer which prompts, and what the answers depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from .. import _core
from ..base.hashes import hash_of
from ..hosts.model import Model
from ..prompts.tasks import Task
from .arm import Arm
from .arms import build_arms
from .options import SweepOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep answers: arms x prompts.

    Attributes:
        prompts: by set, "evaluation" and "benign".
        fingerprint: of all that the answers depend on. Arms may be added to a run, so they are not
            part of it.
    """

    arms: list[Arm]
    prompts: dict[str, list[str]]
    settings: dict[str, Any]
    fingerprint: str


def plan(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    options: SweepOptions | None = None,
    *,
    arms: Sequence[Arm] | None = None,
    progress: bool = True,
) -> Plan:
    """The arms, prompts and settings of a sweep; arguments and errors as there."""
    options = options or SweepOptions()
    cut = slice(options.max_prompts)
    prompts = {"evaluation": task.evaluation[cut], "benign": task.benign[cut]}
    chosen = build_arms(model, circuit, task, options, progress=progress)
    chosen += list(arms or [])
    keys = [arm.key for arm in chosen]
    if repeated := [key for i, key in enumerate(keys) if key in keys[:i]]:
        raise ValueError(f"sweep: expected each arm once, got {repeated[0]} twice; drop one")
    settings = {
        "task": task.name,
        "judge": task.judge.name,
        "model_id": model.model_id,
        "weights_hash": model.core.weights_hash,
        "dtype": str(model.dtype)[6:],
        "steering": model.active_steering(),
        **options.as_json(),
        "n_evaluation": len(prompts["evaluation"]),
        "n_benign": len(prompts["benign"]),
        "versions": {"cna": _core.version, "torch": torch.__version__},
    }
    fingerprint = hash_of(
        model.identity,
        settings["dtype"],
        [model.n_layers, model.width],
        sorted((n.layer, n.index) for n in circuit.neurons),  # deltas may differ in the last bit
        [task.positive, task.negative],  # CAA and the unfiltered circuit are made of these
        prompts,
        task.chat,
        options.max_new_tokens,
        settings["steering"],
    )
    return Plan(chosen, prompts, settings, fingerprint)
