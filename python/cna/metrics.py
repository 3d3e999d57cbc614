"""Numbers of a sweep: rates with intervals, quality, KL, perplexity, multiple-choice accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from . import _core
from .model import Model
from .prompts import Question, read_quiz
from .tasks import Task

if TYPE_CHECKING:
    from .arms import Arm

Update = Callable[[int, int], None] | None


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student-t interval of a mean; (nan, nan) for fewer than two values."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return math.nan, math.nan
    half = stats.t.ppf(0.5 + confidence / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def fixed_text(
    model: Model, intervention: _core.Intervention, batch_size: int = 64, update: Update = None
) -> list[float]:
    """Perplexity of a short text that ships with cna, one value per arm of the intervention.

    The text is read raw, paragraph by paragraph; exp of the mean negative log-likelihood per token.
    """
    text = resources.files("cna").joinpath("data/fixed_text.txt").read_text(encoding="utf-8")
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    if model.tokenizer is None:
        return [math.nan] * intervention.arms
    ids = model.tokenize(paragraphs, chat=False)
    if model.core.max_positions:
        ids = [p[: model.core.max_positions] for p in ids]
    total = torch.zeros(intervention.arms, dtype=torch.float64)
    tokens = sum(len(p) - 1 for p in ids)
    first, rest = [p[:1] for p in ids], [p[1:] for p in ids]
    _, likelihood = model.core.divergence(
        first,
        rest,
        intervention=intervention,
        batch_rows=batch_size,
        share_prefix=False,
        progress=update,
    )
    total = likelihood.sum(1)
    return torch.exp(-total / tokens).tolist()


def quiz_accuracy(
    model: Model,
    intervention: _core.Intervention | None = None,
    quiz: Sequence[Question] | None = None,
    n_questions: int | None = None,
    *,
    by: str = "text",
    chat: bool | None = False,
    batch_size: int = 64,
    progress: Update = None,
) -> torch.Tensor:
    """Which questions are answered right, bool [arms, n_questions].

    Args:
        by: "text" ranks the choices by mean log-probability per token of their text, as suits small
            models; "letter" lists the choices and ranks A, B, C and D, as MMLU is usually run.
        quiz: questions in the MMLU layout, from `cna.prompts.read_quiz`; the built-in set by default.
    """
    if by not in ("text", "letter"):
        raise ValueError(f"quiz_accuracy: expected by='text' or 'letter', got '{by}'; choose one")
    intervention = intervention or _core.Intervention(1)
    questions = list(quiz if quiz is not None else read_quiz())[:n_questions]
    if not questions:
        raise ValueError("quiz_accuracy: expected at least one question, got none; pass a quiz")
    if model.tokenizer is None:
        return torch.zeros(intervention.arms, len(questions), dtype=torch.bool)
    prompts, continuations = [], []
    for q in questions:
        if by == "letter":
            listed = "\n".join(f"{x}. {c}" for x, c in zip("ABCD", q.choices, strict=True))
            prompt = f"Question: {q.question}\n{listed}\nAnswer:"
            ends = [f" {x}" for x in "ABCD"]
        else:
            prompt, ends = f"Question: {q.question}\nAnswer:", [f" {c}" for c in q.choices]
        prompts += [prompt] * len(ends)
        continuations += ends
    ids = model.tokenize(prompts, chat)
    encoded = model.tokenizer(continuations, add_special_tokens=False)["input_ids"]
    n = len(ids)
    arms = [a for a in range(intervention.arms) for _ in range(n)]
    scores = model.core.log_likelihood(
        ids * intervention.arms,
        encoded * intervention.arms,
        intervention=intervention,
        arms=arms,
        batch_rows=batch_size,
        progress=progress,
    )
    lengths = torch.tensor([len(e) for e in encoded], dtype=torch.float64)
    mean = (scores.view(intervention.arms, n) / lengths).view(intervention.arms, len(questions), 4)
    return mean.argmax(-1) == torch.tensor([q.answer for q in questions])


def summarise(
    arms: Sequence[Arm],
    answers: pd.DataFrame,
    task: Task,
    extra: dict[str, pd.Series],
    correct: torch.Tensor | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of a sweep, one row per arm, and the answers with hits and quality."""
    answers = answers.copy()
    answers["hit"] = task.judge.judge_all(list(answers.answer), list(answers.prompt))
    answers["quality"] = [_core.four_gram_quality(a) for a in answers.answer]
    answers["composite"] = [_core.composite_quality(a) for a in answers.answer]
    groups: dict[Any, pd.DataFrame] = dict(list(answers.groupby(["arm", "set"])))
    empty = answers.iloc[:0]
    base = groups.get((arms[0].key, "evaluation"), empty).sort_values("index")
    rows = []
    for number, arm in enumerate(arms):
        mine = groups.get((arm.key, "evaluation"), empty).sort_values("index")
        benign = groups.get((arm.key, "benign"), empty)
        row: dict[str, Any] = {
            "method": arm.method,
            "layer": arm.layer,
            "strength": arm.strength,
            "alpha": arm.alpha,
        }
        for prefix, frame in (("", mine), ("benign_", benign)):
            n, hits = len(frame), int(frame.hit.sum())
            low, high = _core.wilson_interval(hits, n) if n else (math.nan, math.nan)
            names = ["n", "hits", "rate", "rate_low", "rate_high"]
            if prefix:
                names = ["benign_n", "benign_hits", "benign_rate", "benign_low", "benign_high"]
            row |= dict(zip(names, (n, hits, hits / n if n else math.nan, low, high), strict=True))
        row["quality"] = mine.quality.mean()
        row["quality_low"], row["quality_high"] = mean_interval(list(mine.quality))
        row["composite"] = mine.composite.mean()
        for name, values in extra.items():
            row[name] = values[arm.key]
        if correct is not None:
            n, right = correct.shape[1], int(correct[number].sum())
            row["accuracy"] = right / n
            row["accuracy_low"], row["accuracy_high"] = _core.wilson_interval(right, n)
        before, after = base.hit.to_numpy(bool), mine.hit.to_numpy(bool)
        gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
        row["p_value"] = _core.mcnemar_exact(gained, lost)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["layer"] = table["layer"].astype("Int64")
    return table, answers
