"""The sweep: all strengths x prompts x methods in batched runs with one strength per row.

    arms (method, layer, strength) x prompts (evaluation, benign) -> answers -> judge -> table

Answers are appended to a file as they are finished; a run that was killed goes on from there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import _core
from ..base.files import require_folder
from ..base.progress import bar
from ..hosts.model import Model
from ..prompts.quiz import Question, draw_questions, read_quiz
from ..prompts.tasks import Task
from .answers import AnswerLog, generate_answers
from .arms import Arm
from .options import SweepOptions, sweep_options
from .perplexity import fixed_text
from .plan import plan
from .quiz_score import quiz_accuracy, quiz_label
from .result import SweepResult
from .summary import summarise


def sweep(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    multipliers: Sequence[float] | None = None,
    baselines: Sequence[str] | None = None,
    *,
    options: SweepOptions | None = None,
    quiz: Sequence[Question] | None = None,
    arms: Sequence[Arm] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> SweepResult:
    """Measures a circuit at several strengths beside controls and baselines.

    Args:
        task: from `cna.tasks.load`; its judge decides what counts as the behaviour.
        multipliers, baselines, settings: fields of `cna.SweepOptions`, by its names: caa_layers,
            caa_coefficients, random_seeds, max_new_tokens, batch_size, kl_prompts, perplexity,
            quiz_questions, quiz_by, quiz_seed, max_prompts.
        options: all of them in one object; what is given beside it comes first.
        quiz: multiple-choice questions, from `cna.prompts.read_quiz`; the built-in set by default.
        arms: extra arms, for methods of your own; a run folder knows them by all that they do.
        out: a run folder; finished answers are kept there, and a killed run goes on from them.
    Returns:
        SweepResult; `.table` has one row per arm, `.plot()` draws it, `.save(folder)` keeps it.
    Raises:
        ValueError: unknown baseline, strengths that are not finite, or a folder of another run.
        TypeError: a setting that there is not.
    """
    options = sweep_options(options, multipliers, baselines, settings)
    path = Path(out) / "answers.jsonl" if out is not None else None
    if out is not None:
        _require_own_folder(model, Path(out))
    todo = plan(
        model,
        circuit,
        task,
        options,
        arms=arms,
        check=lambda fingerprint: AnswerLog(path, fingerprint),  # before the work that arms take
        progress=progress,
    )
    log = AnswerLog(path, todo.fingerprint)
    answers = generate_answers(
        model,
        todo.arms,
        todo.prompts,
        chat=task.chat,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        log=log,
        progress=progress,
    )
    extra, correct = _scores(model, todo.arms, answers, task.chat, options, quiz, progress)
    table, answers = summarise(todo.arms, answers, task, extra, correct)
    if correct is not None:
        table["quiz"] = todo.settings["quiz"] = _quiz_label(quiz, options)
    result = SweepResult(table, answers.drop(columns=["tokens", "arm"]), todo.settings, circuit)
    if out is not None:
        result.save(out)
    return result


def _require_own_folder(model: Model, out: Path) -> None:
    if model.ranks > 1:
        raise ValueError(
            f"sweep: expected no out= with a model shared by {model.ranks} processes, got '{out}'; they "
            "would write one over the other: save the result in one of them"
        )
    require_folder(out, "sweep")


def _scores(
    model: Model,
    arms: Sequence[Arm],
    answers: pd.DataFrame,
    chat: bool | None,
    options: SweepOptions,
    quiz: Sequence[Question] | None,
    progress: bool,
) -> tuple[dict[str, pd.Series], torch.Tensor | None]:
    """KL and perplexity by arm, and which questions each arm answers right; what is wanted of them."""
    everything = _core.Intervention.concat([arm.intervention for arm in arms])
    keys = [arm.key for arm in arms]
    batch_size = options.batch_size
    extra: dict[str, pd.Series] = {}
    if options.kl_prompts > 0:
        values = _kl(
            model, arms, everything, answers, chat, options.kl_prompts, batch_size, progress
        )
        extra["kl"] = pd.Series(values, index=keys)
    if options.perplexity:
        with bar("perplexity", progress) as update:
            values = fixed_text(model, everything, batch_size, update)
        extra["perplexity"] = pd.Series(values, index=keys)
    correct = None
    if options.quiz_questions > 0:
        with bar("quiz", progress) as update:
            correct = quiz_accuracy(
                model,
                everything,
                quiz,
                options.quiz_questions,
                by=_quiz_by(quiz, options),
                seed=options.quiz_seed,
                batch_size=batch_size,
                progress=update,
            )
    return extra, correct


def _quiz_by(quiz: Sequence[Question] | None, options: SweepOptions) -> str:
    return options.quiz_by or ("text" if quiz is None else "letter")


def _quiz_label(quiz: Sequence[Question] | None, options: SweepOptions) -> str:
    questions = read_quiz() if quiz is None else quiz
    drawn = draw_questions(questions, options.quiz_questions, options.quiz_seed)
    return quiz_label(questions, drawn, _quiz_by(quiz, options), options.quiz_seed)


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
