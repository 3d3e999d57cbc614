"""The table of a sweep: answers become outcomes, rates, intervals and quality, one row per arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .. import _core
from ..base.later import pd
from ..prompts.tasks import Task
from ..prompts.thoughts import judge_answers
from .arm import Arm
from .intervals import mean_interval
from .outcomes import OUTCOMES, outcome_of, token_quality


def summarise(
    arms: Sequence[Arm],
    answers: pd.DataFrame,
    task: Task,
    extra: Mapping[str, Mapping[str, float]],
    correct: torch.Tensor | None,
    max_new_tokens: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of a sweep, one row per arm, and the answers with outcome, hit and quality.

    Args:
        answers: with arm, set, index, prompt, answer and tokens; log_likelihood and relevance where
            they were measured; question, what a judge is told was asked, and opened, whether the
            prompt ends with an opening think tag, where known. A judge reads what is behind the
            thoughts. n_thought_tokens: those of them that have a budget of their own.
        extra: more columns: {column: {key of an arm: value}}.
        correct: which questions each arm answers right, bool [arms, n_questions].
        max_new_tokens: of an answer; one as long was cut. None: none was.
    """
    scored = _scored(answers, task, math.inf if max_new_tokens is None else max_new_tokens)
    return _table(arms, scored, extra, correct), scored


def _scored(answers: pd.DataFrame, task: Task, most: float) -> pd.DataFrame:
    out = answers.copy()
    for column in ("log_likelihood", "relevance"):
        if column not in out:
            out[column] = math.nan
    opened = list(out.pop("opened")) if "opened" in out else [False] * len(out)
    asked = list(out.pop("question") if "question" in out else out["prompt"])
    judged, parts = judge_answers(task.judge, list(out["answer"]), asked, opened)
    if any(x.thoughts or not x.ended for x in parts):
        out["thoughts"] = [x.thoughts for x in parts]
        out["unended"] = [not x.ended for x in parts]
    finite = [not math.isinf(x) for x in out["log_likelihood"]]
    out["outcome"] = [
        outcome_of(*x) for x in zip(out["answer"], out["tokens"], judged, finite, strict=True)
    ]
    out["hit"] = out["outcome"] == "behaviour"
    out["judged"] = judged
    out["quality"] = [token_quality(t) for t in out["tokens"]]
    out["word_quality"] = [_core.four_gram_quality(a) for a in out["answer"]]
    out["composite"] = [_core.composite_quality(a) for a in out["answer"]]
    out["n_tokens"] = [len(t) for t in out["tokens"]]
    out["empty"] = [not a.strip() for a in out["answer"]]
    thinking = out.pop("n_thought_tokens") if "n_thought_tokens" in out else 0
    out["cut"] = out["n_tokens"] - thinking >= most
    return out


def _table(
    arms: Sequence[Arm],
    answers: pd.DataFrame,
    extra: Mapping[str, Mapping[str, float]],
    correct: torch.Tensor | None,
) -> pd.DataFrame:
    groups: dict[Any, pd.DataFrame] = dict(list(answers.groupby(["arm", "set"])))
    empty = answers.iloc[:0]
    base = groups.get((arms[0].key, "evaluation"), empty).set_index("index")["hit"]
    rows = []
    for number, arm in enumerate(arms):
        mine = groups.get((arm.key, "evaluation"), empty).sort_values("index")
        benign = groups.get((arm.key, "benign"), empty).sort_values("index")
        row: dict[str, Any] = {
            "method": arm.method,
            "kind": arm.kind,
            "layer": arm.layer,
            "strength": arm.strength,
            "neutral": arm.neutral,
            "draw": arm.draw,
            "alpha": arm.alpha,
            **_outcomes(mine),
            **_benign(benign),
            **_mean("quality", mine["quality"], interval=True),
            **_mean("word_quality", mine["word_quality"], interval=True),
            **_mean("composite", mine["composite"]),
            "answer_perplexity": _perplexity(mine),
            **_mean("relevance", mine["relevance"], interval=True),
            "empty": mine["empty"].mean() if len(mine) else math.nan,
            "cut": mine["cut"].mean() if len(mine) else math.nan,
        }
        if "unended" in answers:  # answers that never leave their thoughts
            row["unended"] = mine["unended"].mean() if len(mine) else math.nan
        for name, values in extra.items():
            row[name] = values.get(arm.key, math.nan)
        # Questions are asked without an instruction, and not of draws.
        if correct is not None and not arm.prefix and arm.kind != "random":
            n, right = correct.shape[1], int(correct[number].sum())
            row["accuracy"] = right / n
            row["accuracy_low"], row["accuracy_high"] = _core.wilson_interval(right, n)
        after = mine.set_index("index")["hit"]
        before = base.reindex(after.index).to_numpy(bool)
        now = after.to_numpy(bool)
        gained, lost = int((now & ~before).sum()), int((before & ~now).sum())
        row["p_value"] = _core.mcnemar_exact(gained, lost)
        rows.append(row)
    table = pd.DataFrame(rows)
    for column in ("layer", "draw"):
        table[column] = table[column].astype("Int64")
    return table


def _outcomes(mine: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"n": len(mine), "hits": int(mine["hit"].sum())}
    for outcome, name in zip(OUTCOMES, ("rate", "other", "broken"), strict=True):
        row |= _rate(name, int((mine["outcome"] == outcome).sum()), len(mine))
    return row | _rate("judged", int(mine["judged"].sum()), len(mine))


def _benign(benign: pd.DataFrame) -> dict[str, Any]:
    n, hits = len(benign), int(benign["hit"].sum())
    row: dict[str, Any] = {"benign_n": n, "benign_hits": hits}
    rate = _rate("benign", hits, n)
    row |= {
        "benign_rate": rate["benign"],
        "benign_low": rate["benign_low"],
        "benign_high": rate["benign_high"],
        "benign_broken": (benign["outcome"] == "broken").mean() if n else math.nan,
    }
    return row | _mean("benign_quality", benign["quality"], interval=True)


def _rate(name: str, hits: int, n: int) -> dict[str, float]:
    low, high = _core.wilson_interval(hits, n) if n else (math.nan, math.nan)
    return {name: hits / n if n else math.nan, f"{name}_low": low, f"{name}_high": high}


def _mean(name: str, values: pd.Series, interval: bool = False) -> dict[str, float]:
    known = pd.to_numeric(values, errors="coerce").dropna()
    row = {name: known.mean() if len(known) else math.nan}
    if interval:
        row[f"{name}_low"], row[f"{name}_high"] = mean_interval(list(known))
    return row


def _perplexity(mine: pd.DataFrame) -> float:
    """exp of the mean negative log-likelihood per token over all answers that have one."""
    known = mine[np.isfinite(mine["log_likelihood"].to_numpy(np.float64))]
    tokens = int(known["n_tokens"].sum())
    return math.exp(-known["log_likelihood"].sum() / tokens) if tokens else math.nan
