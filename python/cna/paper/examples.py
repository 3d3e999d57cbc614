"""Table 4: one prompt, answered as it is, with the circuit off, and with it doubled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .. import _core
from ..base.later import pd
from ..circuits.discovery import discover
from ..circuits.universal import universal_neurons
from ..hosts.model import Model
from ..prompts.tasks import Task
from .printed import paper

STRENGTHS = (1.0, 0.0, 2.0)


def examples_table(
    model: Model,
    base: Model | None,
    circuit: _core.Circuit,
    task: Task,
    entry: Mapping[str, Any],
    *,
    max_new_tokens: int,
    progress: bool = True,
) -> pd.DataFrame:
    """Answers to the task's first evaluation prompt, of the model and of its base model.

    Each model is steered by a circuit of its own, of as many neurons; the base model reads raw text.

    Args:
        circuit: of the model.
        entry: the paper's numbers of the model.
    Returns:
        A row per model and strength: what the paper says of its answer, whether the judge sees the
        behaviour in this one, and the answer.
    """
    chosen: list[tuple[str, Model, _core.Circuit, bool | None]] = [
        ("model" if base is None else "instruct", model, circuit, task.chat)
    ]
    if base is not None:
        own = discover(
            base,
            task.positive,
            task.negative,
            k=len(circuit),
            universal=universal_neurons(base, chat=False, progress=progress),
            chat=False,
            progress=progress,
        )
        chosen.append(("base", base, own, False))
    prompt = task.evaluation[0]
    rows = []
    for which, of, neurons, chat in chosen:
        source = paper()["models"].get(entry.get("other"), {}) if which == "base" else entry
        said = source.get("answers", {})
        with of.steer(neurons, list(STRENGTHS)):
            answers = of.generate(
                [prompt] * len(STRENGTHS), max_new_tokens, chat=chat, progress=progress
            )
        for m, answer in zip(STRENGTHS, answers, strict=True):
            rows.append(
                {
                    "model": which,
                    "multiplier": m,
                    "alpha": 1.0 - m,
                    "paper_answer": said.get(f"{m:g}", math.nan),
                    "judged": bool(task.judge(answer)),
                    "answer": answer,
                }
            )
    return pd.DataFrame(rows)
