"""The paper's experiments on answers: the circuit at its strengths, beside CAA and random neurons."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _core
from ..circuits.discovery import discover
from ..circuits.random_control import random_like
from ..circuits.universal import universal_neurons
from ..circuits.vectors import caa, caa_mlp
from ..hosts.model import Model
from ..measure.arms import Arm, neuron_arms, vector_arms
from ..measure.options import SweepOptions
from ..measure.sweep import sweep
from ..prompts.quiz import Question
from ..prompts.tasks import Task
from .examples import examples_table
from .result import Reproduction
from .tables import accuracy_table, controls_table, quality_table, refusal_table

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TABLES = {
    "refusal": refusal_table,
    "quality": quality_table,
    "controls": controls_table,
    "mmlu": accuracy_table,
}
_BY_ALPHA = {"quality", "mmlu"}  # parts that need every strength, and vectors


def measure_behaviour(
    result: Reproduction,
    model: Model,
    base: Model | None,
    task: Task,
    entry: dict[str, Any],
    parts: Sequence[str],
    *,
    quick: bool,
    quiz: Sequence[Question] | None,
    questions: int,
    fraction: float,
    max_new_tokens: int,
    batch_size: int,
    out: str | os.PathLike[str] | None,
    progress: bool,
) -> None:
    """Puts the circuit, the sweep and the tables of a reproduction's parts into it.

    Args:
        entry: the paper's numbers of the model.
        parts: those of `cna.reproduce`; the ones on layers are not measured here.
        base: for the part "examples"; quiz, questions: for "mmlu".
    """
    swept = [part for part in parts if part in _TABLES]
    if not swept and "examples" not in parts:
        return
    circuit = discover(
        model,
        task.positive,
        task.negative,
        fraction=fraction,
        universal=universal_neurons(model, chat=task.chat, progress=progress),
        chat=task.chat,
        batch_size=batch_size,
        progress=progress,
    )
    result.circuits["behaviour"] = circuit
    if "examples" in parts:
        result.tables["examples"] = examples_table(
            model, base, circuit, task, entry, max_new_tokens=max_new_tokens, progress=progress
        )
    if not swept:
        return
    options = SweepOptions(
        multipliers=[1.0 - a for a in ALPHAS] if _BY_ALPHA & {*swept} else [0.0],
        baselines=[],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        kl_prompts=0,
        perplexity=False,
        relevance_prompts=0,
        quiz_questions=questions if "mmlu" in swept else 0,
        max_prompts=12 if quick else None,
    )
    measured = sweep(
        model,
        circuit,
        task,
        options=options,
        quiz=quiz,
        arms=_arms(model, circuit, task, swept, quick, progress),
        out=None if out is None else Path(out) / "sweep",
        progress=progress,
    )
    result.sweep = measured
    for part in swept:
        result.tables[part] = _TABLES[part](measured.table, entry)
    if "controls" in swept:
        result.tables["controls"].insert(1, "n_neurons", len(circuit))
        result.tables["controls"].loc[0, "n_neurons"] = 0


def _arms(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    parts: Sequence[str],
    quick: bool,
    progress: bool,
) -> list[Arm]:
    arms: list[Arm] = []
    if "controls" in parts:
        for seed in (0,) if quick else (0, 1, 2):
            drawn = random_like(circuit, seed)
            arms += neuron_arms("random", drawn, [0.0], kind="random", draw=seed)
    if _BY_ALPHA & {*parts} and model.core.has_residual_sites:
        positive, negative, chat = task.positive, task.negative, task.chat
        printed = [a for a in ALPHAS if a > 0]
        removing = [-0.5] if quick else [-0.25, -0.5, -0.75, -1.0]
        everywhere = caa_mlp(model, positive, negative, chat=chat, progress=progress)
        arms += vector_arms(everywhere, printed + removing, per_layer=False)
        layers = sorted({model.n_layers * p // 6 for p in ((4,) if quick else (3, 4))})
        vector = caa(model, positive, negative, layers=layers, chat=chat, progress=progress)
        arms += vector_arms(vector, removing)
    return arms
