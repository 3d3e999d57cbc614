"""How a rate hangs on the length of the answers: one long answer, cut at several lengths."""

from __future__ import annotations

from collections.abc import Sequence

from .. import _core
from ..base.checks import whole_number
from ..base.later import pd
from ..hosts.messages import question
from ..hosts.model import Model
from ..prompts.tasks import Task
from ..prompts.thoughts import judge_answers, opens_thoughts
from .outcomes import outcome_of


def rate_by_length(
    model: Model,
    task: Task,
    lengths: Sequence[int] = (40, 100, 200),
    *,
    max_prompts: int | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Outcomes of a task's evaluation answers when they are cut after so many tokens.

    Greedy answers of the longest length are generated once; a shorter one is their beginning.
    Inside a `model.steer` block these are the steered model's.

    Args:
        lengths: tokens.
        max_prompts: evaluation prompts, from the first; all by default.
    Returns:
        One row per length: `max_new_tokens`, `n`, `rate` with its Wilson interval `rate_low`,
        `rate_high`, `other`, `broken`, and `cut`, the share of answers that had not ended by then.
    """
    lengths = sorted({whole_number(x, 1, "lengths", "rate_by_length") for x in lengths})
    if not lengths:
        raise ValueError("rate_by_length: expected at least one length, got none; pass e.g. (40,)")
    prompts = task.evaluation[:max_prompts]
    whole = model.generate(
        prompts,
        max_new_tokens=lengths[-1],
        chat=task.chat,
        batch_size=batch_size,
        progress=progress,
        return_tokens=True,
    )
    ids = model.tokenize(prompts, task.chat)
    opened = [opens_thoughts(model.tokenizer, x) for x in ids]
    asked = [question(prompt) for prompt in prompts]
    rows = []
    for length in lengths:
        tokens = [answer[:length] for answer in whole]
        texts = [model.decode(t) for t in tokens]
        judged, _ = judge_answers(task.judge, texts, asked, opened)
        found = [outcome_of(*x) for x in zip(texts, tokens, judged, strict=True)]
        hits, n = found.count("behaviour"), len(found)
        low, high = _core.wilson_interval(hits, n)
        rows.append(
            {
                "max_new_tokens": length,
                "n": n,
                "rate": hits / n,
                "rate_low": low,
                "rate_high": high,
                "other": found.count("other") / n,
                "broken": found.count("broken") / n,
                "cut": sum(len(answer) >= length for answer in whole) / n,
            }
        )
    return pd.DataFrame(rows)
