"""The sweep: all strengths x prompts x methods in batched runs with one strength per row.

    arms (method, layer, strength) x prompts (evaluation, benign) -> answers -> judge -> table

Answers are appended to a file as they are finished; a run that was killed goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import _core
from ..base.files import require_folder
from ..base.later import pd
from ..base.progress import bar
from ..hosts.model import Model
from ..prompts.quiz import Question, draw_questions, read_quiz
from ..prompts.tasks import Task
from .answer_scores import add_likelihoods
from .answers import AnswerLog, generate_answers, prompt_ids
from .arm import Arm
from .divergence import add_divergence
from .layers import task_layers
from .options import SweepOptions, sweep_options
from .perplexity import fixed_text
from .plan import Plan, plan
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

    Inside a `model.steer` block the unsteered model is the one of that block.

    Args:
        task: from `cna.tasks.load`; its judge decides what counts as the behaviour.
        multipliers, baselines, settings: fields of `cna.SweepOptions`, by its names: caa_layers,
            caa_coefficients, logit_biases, prompt_baseline, random_seeds, random_prompts,
            max_new_tokens, max_thought_tokens, batch_size, kl_prompts, perplexity,
            relevance_prompts, quiz_questions, quiz_by, quiz_seed, max_prompts, layers.
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
        max_thought_tokens=options.max_thought_tokens,
        batch_size=options.batch_size,
        log=log,
        progress=progress,
    )
    answers, extra, correct = _scores(model, todo, answers, task.chat, options, quiz, progress)
    table, answers = summarise(todo.arms, answers, task, extra, correct, options.max_new_tokens)
    if correct is not None:
        table["quiz"] = todo.settings["quiz"] = _quiz_label(quiz, options)
    layers, missing = task_layers(model, circuit, task, options, progress)
    if missing:
        todo.settings["layers_missing"] = missing
    kept = answers.drop(columns=["tokens", "arm"])
    result = SweepResult(table, kept, todo.settings, circuit, layers)
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
    todo: Plan,
    answers: pd.DataFrame,
    chat: bool | None,
    options: SweepOptions,
    quiz: Sequence[Question] | None,
    progress: bool,
) -> tuple[pd.DataFrame, dict[str, dict[str, float]], torch.Tensor | None]:
    """The answers with their KL and likelihoods, columns by arm, and which questions are right.

    Draws of random neurons read no text and answer no questions.
    """
    arms, batch_size = todo.arms, options.batch_size
    fixed = [i for i, arm in enumerate(arms) if arm.kind != "random"]
    active, _ = model._steering(1)
    everything = active.then(_core.Intervention.concat([arms[i].intervention for i in fixed]))
    ids = prompt_ids(model, arms, todo.prompts, chat)
    answers, extra = add_divergence(
        model, arms, answers, ids, most=options.kl_prompts, batch_size=batch_size, progress=progress
    )
    if options.relevance_prompts != 0:
        own = {name: rows for (prefix, name), rows in ids.items() if not prefix}
        answers = add_likelihoods(
            model,
            answers,
            own,
            most=options.relevance_prompts,
            batch_size=batch_size,
            progress=progress,
        )
    if options.perplexity:
        with bar("perplexity", progress) as update:
            values = fixed_text(model, everything, batch_size, update)
        # A text that is read raw has no place for an instruction.
        extra["perplexity"] = {
            arms[i].key: x for i, x in zip(fixed, values, strict=True) if not arms[i].prefix
        }
    correct = None
    if options.quiz_questions > 0:
        with bar("quiz", progress) as update:
            right = quiz_accuracy(
                model,
                everything,
                quiz,
                options.quiz_questions,
                by=_quiz_by(quiz, options),
                seed=options.quiz_seed,
                batch_size=batch_size,
                progress=update,
            )
        correct = torch.zeros(len(arms), right.shape[1], dtype=torch.bool)
        correct[fixed] = right
    return answers, extra, correct


def _quiz_by(quiz: Sequence[Question] | None, options: SweepOptions) -> str:
    return options.quiz_by or ("text" if quiz is None else "letter")


def _quiz_label(quiz: Sequence[Question] | None, options: SweepOptions) -> str:
    questions = read_quiz() if quiz is None else quiz
    drawn = draw_questions(questions, options.quiz_questions, options.quiz_seed)
    return quiz_label(questions, drawn, _quiz_by(quiz, options), options.quiz_seed)
