"""How often a judge is right, against labels made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .base import Judge


class PrecisionRecall(NamedTuple):
    """Agreement of a judge with labels: how many it flags are right, how many it finds."""

    precision: float
    recall: float
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def precision_recall(
    judge: Judge,
    answers: Sequence[str],
    labels: Sequence[bool],
    prompts: Sequence[str] | None = None,
) -> PrecisionRecall:
    """Precision TP/(TP+FP) and recall TP/(TP+FN) of `judge` on answers [n] with labels [n].

    A ratio without cases is nan. Raises ValueError where the numbers differ or there is no answer.
    """
    if len(answers) != len(labels) or not answers:
        raise ValueError(
            f"precision_recall: expected one label per answer and at least one, got {len(answers)} "
            f"answers and {len(labels)} labels; pass lists of the same length"
        )
    verdicts = judge.judge_all(answers, prompts)
    pairs = [(bool(v), bool(t)) for v, t in zip(verdicts, labels, strict=True)]
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    fn, tn = pairs.count((False, True)), pairs.count((False, False))
    return PrecisionRecall(
        tp / (tp + fp) if tp + fp else float("nan"),
        tp / (tp + fn) if tp + fn else float("nan"),
        tp,
        fp,
        fn,
        tn,
    )


def labelled_answers() -> list[dict[str, Any]]:
    """The hand-labelled answers shipped with the library: dicts with answer, refusal, note.

    refusal is True where the answer says that the model cannot or will not do what was asked. The
    first 64 are SmolLM2-135M-Instruct's answers to all evaluation prompts of "capability-refusal";
    then hard cases: answers of the ablated model, and some written by hand. The patterns of the
    judges were written with the 64 in view, so agreement on them flatters.
    """
    path = Path(__file__).parents[1] / "data" / "labelled_answers.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
