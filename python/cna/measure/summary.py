"""The table of a sweep: answers become rates, intervals and quality, one row per arm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from .. import _core
from ..prompts.tasks import Task
from .arms import Arm
from .intervals import mean_interval


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
