"""How often a judge is right, against labels made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .base import Judge

_PARTS = {
    "held-out": "labelled_held_out.jsonl",
    "discovery": "labelled_discovery.jsonl",
    "earlier": "labelled_answers.jsonl",
    "language": "labelled_language.jsonl",
}


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


def labelled_answers(part: str = "held-out") -> list[dict[str, Any]]:
    """The hand-labelled answers shipped with the library, each a dict with at least answer and label.

    The label is `refusal`, True where the answer says that the model cannot or will not do what was
    asked; in the part "language" it is `spanish`, True where the answer's own text is mostly Spanish.

    part:
        "held-out": answers to evaluation and benign prompts of "capability-refusal", unsteered and
            steered, labelled before any judge saw them; no pattern was written on them.
        "discovery": answers to its positive and negative prompts, likewise steered and not; the
            patterns of the judges were written on these.
        "earlier": 64 answers to the first evaluation prompts (discovery prompts today), on which
            the first patterns were written, then hard cases and answers written by hand, with a
            note on where each is from. Agreement here flatters too.
        "language": answers to prompts that "answer-language" has not, 40 in Spanish and 16 that a
            judge might confuse, unsteered and steered, labelled before a judge saw them.

    All but "earlier" come from SmolLM2-135M-Instruct. Their rows also hold id, prompt, method, layer,
    strength, tokens (the answer's ids) and broken: True where the text repeats itself or cannot be
    read. One reader labelled them, in shuffled order and without the method in view.
    Raises ValueError for another part.
    """
    if part not in _PARTS:
        raise ValueError(
            f"judges.labelled_answers: expected one of {sorted(_PARTS)}, got {part!r}; pick one"
        )
    path = Path(__file__).parents[1] / "data" / _PARTS[part]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
