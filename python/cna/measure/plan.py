"""The plan of a sweep: which arms answer which prompts, and what the answers depend on."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import Any

from .. import _core
from ..base.hashes import hash_of
from ..circuits.provenance import circuit_hash, prompt_hash
from ..hosts.about import about_model, fingerprint_parts, steering_active
from ..hosts.model import Model
from ..prompts.tasks import Task
from .arm import Arm
from .arms import build_arms
from .marks import about_arm
from .options import SweepOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep answers: arms x prompts.

    Attributes:
        prompts: by set, "evaluation" and "benign".
        fingerprint: of all that the answers of every arm depend on. Arms may be added to a run; a
            finished answer is known by its arm's `mark` beside it.
    """

    arms: list[Arm]
    prompts: dict[str, list[Any]]
    settings: dict[str, Any]
    fingerprint: str


def plan(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    options: SweepOptions | None = None,
    *,
    arms: Sequence[Arm] | None = None,
    check: Callable[[str], object] | None = None,
    progress: bool = True,
) -> Plan:
    """The arms, prompts and settings of a sweep; arguments and errors as there.

    `check` is called with the fingerprint before the work that arms take.
    """
    options = options or SweepOptions()
    cut = slice(options.max_prompts)
    prompts = {"evaluation": task.evaluation[cut], "benign": task.benign[cut]}
    fingerprint = _fingerprint(model, circuit, task, prompts, options)
    if check is not None:
        check(fingerprint)
    chosen = build_arms(model, circuit, task, options, progress=progress)
    chosen += list(arms or [])
    keys = [arm.key for arm in chosen]
    if repeated := [key for i, key in enumerate(keys) if key in keys[:i]]:
        raise ValueError(f"sweep: expected each arm once, got {repeated[0]} twice; drop one")
    settings = {
        "task": task.name,
        "judge": task.judge.name,
        **about_model(model),
        "circuit_hash": circuit_hash(circuit),
        "prompt_hash": prompt_hash(*(model.tokenize(p, task.chat) for p in prompts.values() if p)),
        **options.as_json(),
        "n_evaluation": len(prompts["evaluation"]),
        "n_benign": len(prompts["benign"]),
        "arms": [about_arm(arm) for arm in chosen],
        "fingerprint": fingerprint,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return Plan(chosen, prompts, settings, fingerprint)


def _fingerprint(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    prompts: dict[str, list[Any]],
    options: SweepOptions,
) -> str:
    """Of the model, versions, circuit and token ids; a template that writes the date changes it."""
    sets = [task.positive, task.negative, *prompts.values()]  # the first two make CAA's vectors
    return hash_of(
        fingerprint_parts(model),
        steering_active(model),
        circuit_hash(circuit),
        [model.tokenize(texts, task.chat) if texts else [] for texts in sets],
        options.most_tokens,
    )
