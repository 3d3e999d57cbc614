"""The sweep: all strengths x prompts x methods in batched runs with one strength per row.

    arms (method, layer, strength) x prompts (evaluation, benign) -> answers -> judge -> table

Answers are appended to a file as they are finished; a run that was killed goes on from there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .. import _core
from ..base.files import require_folder
from ..base.progress import bar
from ..hosts.model import Model
from ..prompts.quiz import Question
from ..prompts.tasks import Task
from .answers import AnswerLog, generate_answers
from .arms import Arm
from .plan import plan
from .quality import fixed_text
from .quiz_score import quiz_accuracy
from .result import SweepResult
from .summary import summarise


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
