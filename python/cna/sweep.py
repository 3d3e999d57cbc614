"""The sweep: all strengths x prompts x methods in batched runs with one strength per row.

    arms (method, layer, strength) x prompts (evaluation, benign) -> answers -> judge -> table

Answers are appended to a file as they are finished; a run that was killed goes on from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import _core
from .answers import AnswerLog, generate_answers
from .arms import Arm, build_arms
from .files import require_folder
from .metrics import fixed_text, quiz_accuracy, summarise
from .model import Model
from .progress import bar
from .prompts import Question
from .tasks import Task


@dataclasses.dataclass
class SweepResult:
    """What a sweep measured.

    Attributes:
        table: one row per arm; columns as in docs/evaluation.md.
        answers: one row per arm and prompt.
        settings: what it was run with.
    """

    table: pd.DataFrame
    answers: pd.DataFrame
    settings: dict[str, Any]
    circuit: _core.Circuit

    def plot(self) -> Any:
        """Behaviour rate against strength with intervals: a matplotlib Figure."""
        from . import plots

        return plots.dose_response(self.table)

    def save(self, folder: str | os.PathLike[str], report: bool = True) -> Path:
        """Writes circuit.json, table.csv, answers.csv, run.json, figures and report.html."""
        from .runs import save_run

        return save_run(self, Path(folder), report=report)

    def _repr_html_(self) -> str:
        shown = [
            c for c in ("method", "layer", "strength", "rate", "quality", "kl") if c in self.table
        ]
        return self.table[shown].to_html(index=False, float_format="%.3f", na_rep="")


def _fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
    multipliers: Sequence[float] = (-1.0, 0.0, 0.5, 1.0, 2.0),
    baselines: Sequence[str] = ("random", "caa"),
    *,
    caa_layers: Sequence[int] | None = None,
    caa_coefficients: Sequence[float] = (-1.0, -0.5, -0.25),
    random_seeds: Sequence[int] = (0,),
    max_new_tokens: int = 40,
    batch_size: int = 64,
    max_prompts: int | None = None,
    arms: Sequence[Arm] | None = None,
    progress: bool = True,
) -> Plan:
    """The arms, prompts and settings of a sweep; arguments and errors as there."""
    cut = slice(None) if max_prompts is None else slice(0, max_prompts)
    prompts = {"evaluation": task.evaluation[cut], "benign": task.benign[cut]}
    chosen = build_arms(
        model,
        circuit,
        task,
        multipliers,
        baselines,
        caa_layers=caa_layers,
        caa_coefficients=caa_coefficients,
        random_seeds=random_seeds,
        chat=task.chat,
        batch_size=batch_size,
        progress=progress,
    )
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
        "multipliers": sorted({1.0, *map(float, multipliers)}),
        "baselines": list(baselines),
        "caa_coefficients": list(caa_coefficients),
        "max_new_tokens": max_new_tokens,
        "n_evaluation": len(prompts["evaluation"]),
        "n_benign": len(prompts["benign"]),
        "versions": {"cna": _core.version, "torch": torch.__version__},
    }
    fingerprint = _fingerprint(
        model.identity,
        settings["dtype"],
        [model.n_layers, model.width],
        sorted((n.layer, n.index) for n in circuit.neurons),  # deltas may differ in the last bit
        [task.positive, task.negative],  # CAA and the unfiltered circuit are made of these
        prompts,
        task.chat,
        max_new_tokens,
    )
    return Plan(chosen, prompts, settings, fingerprint)


def sweep(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    multipliers: Sequence[float] = (-1.0, 0.0, 0.5, 1.0, 2.0),
    baselines: Sequence[str] = ("random", "caa"),
    *,
    caa_layers: Sequence[int] | None = None,
    caa_coefficients: Sequence[float] = (-1.0, -0.5, -0.25),
    random_seeds: Sequence[int] = (0,),
    max_new_tokens: int = 40,
    batch_size: int = 64,
    kl_prompts: int = 16,
    perplexity: bool = True,
    quiz: Sequence[Question] | None = None,
    quiz_questions: int = 60,
    max_prompts: int | None = None,
    arms: Sequence[Arm] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SweepResult:
    """Measures a circuit at several strengths beside controls and baselines.

    Args:
        task: from `cna.tasks.load`; its judge decides what counts as the behaviour.
        multipliers: strengths m of the circuit; 1, the model itself, is always among them.
        baselines: "random" (as many neurons per layer), "caa" (residual stream, layer x
            coefficient), "caa-mlp" (the authors' variant) and "no-filter" (top neurons with the
            universal ones left in).
        kl_prompts: prompts for KL(unsteered || steered) along unsteered answers; 0 leaves it out.
        quiz: multiple-choice questions; the built-in set by default, `quiz_questions` of them; 0
            leaves accuracy out.
        max_prompts: evaluation and benign prompts to use, each; all by default.
        arms: extra arms, for methods of your own; a run folder knows them by method, layer and
            strength.
        out: a run folder; finished answers are kept there, and a killed run goes on from them.
    Returns:
        SweepResult; `.table` has one row per arm, `.plot()` draws it, `.save(folder)` keeps it.
    Raises:
        ValueError: unknown baseline, strengths that are not finite, or a folder of another run.
    """
    if out is not None and model.ranks > 1:
        raise ValueError(
            f"sweep: expected no out= with a model shared by {model.ranks} processes, got '{out}'; they "
            "would write one over the other: save the result in one of them"
        )
    if out is not None:
        require_folder(Path(out), "sweep")
    todo = plan(
        model,
        circuit,
        task,
        multipliers,
        baselines,
        caa_layers=caa_layers,
        caa_coefficients=caa_coefficients,
        random_seeds=random_seeds,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        max_prompts=max_prompts,
        arms=arms,
        progress=progress,
    )
    chosen = todo.arms
    log = AnswerLog(Path(out) / "answers.jsonl" if out is not None else None, todo.fingerprint)
    answers = generate_answers(
        model,
        chosen,
        todo.prompts,
        chat=task.chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        log=log,
        progress=progress,
    )
    extra: dict[str, pd.Series] = {}
    everything = _core.Intervention.concat([arm.intervention for arm in chosen])
    keys = [arm.key for arm in chosen]
    if kl_prompts > 0:
        extra["kl"] = pd.Series(
            _kl(model, chosen, everything, answers, task.chat, kl_prompts, batch_size, progress),
            index=keys,
        )
    if perplexity:
        with bar("perplexity", progress) as update:
            extra["perplexity"] = pd.Series(
                fixed_text(model, everything, batch_size, update), index=keys
            )
    correct = None
    if quiz_questions > 0:
        with bar("quiz", progress) as update:
            correct = quiz_accuracy(
                model, everything, quiz, quiz_questions, batch_size=batch_size, progress=update
            )
    table, answers = summarise(chosen, answers, task, extra, correct)
    result = SweepResult(table, answers.drop(columns=["tokens", "arm"]), todo.settings, circuit)
    if out is not None:
        result.save(out)
    return result


def _kl(
    model: Model,
    arms: Sequence[Arm],
    everything: _core.Intervention,
    answers: pd.DataFrame,
    chat: bool | None,
    n: int,
    batch_size: int,
    progress: bool,
) -> list[float]:
    base = answers[(answers.arm == arms[0].key) & (answers.set == "evaluation")]
    base = base[base.tokens.map(len) > 0].head(n)
    if base.empty:
        return [math.nan] * len(arms)
    ids = model.tokenize(list(base.prompt), chat)
    with bar("KL", progress, "row") as update:
        kl, _ = model.core.divergence(
            ids, list(base.tokens), intervention=everything, batch_rows=batch_size, progress=update
        )
    return kl.mean(1).tolist()
