"""The paper's experiments on a model of yours: printed, logged and measured numbers side by side.

    result = cna.reproduce("meta-llama/Llama-3.2-1B-Instruct", base="meta-llama/Llama-3.2-1B")
    result.tables["layers"]

Printed numbers are those of arXiv 2605.12290; logged ones are from the history of the authors'
repository (prompts/data/paper.json says which). Where the prompts differ from the authors', the numbers
need not agree; the notes of a result say what differs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..circuits.layer_table import UNITS_NOTE
from ..hosts.loading import load
from ..hosts.model import Model
from ..prompts import tasks
from ..prompts.quiz import read_quiz
from ..prompts.tasks import Task
from .about import comparison_notes, environment
from .behaviour import measure_behaviour
from .layers import LAYER_TASKS, localise
from .own_prompts import jailbreak_task
from .printed import paper_entry
from .result import Reproduction

PARTS = ("refusal", "quality", "controls", "mmlu", "examples", "layers", "overlap")
_LAYER_TABLES = {"layers": ("layers", "layer_counts"), "overlap": ("overlap",)}


def reproduce(
    model: Model | str | os.PathLike[str],
    base: Model | str | os.PathLike[str] | None = None,
    parts: Sequence[str] | None = None,
    quick: bool = False,
    *,
    task: Task | None = None,
    layer_tasks: Mapping[str, Task] | None = None,
    mmlu: str | os.PathLike[str] | None = None,
    fraction: float = 0.001,
    k: int = 200,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Reproduction:
    """Runs the paper's experiments on a model and sets the results beside the paper's.

    Args:
        model: a `cna.Model`, or a name for `cna.load`.
        base: the base model it was tuned from; fed raw text.
        parts: of "refusal" (tables 1 to 3), "quality" (tables 1 and 2, figure 1), "controls", "mmlu"
            (figure 2), "examples" (table 4), "layers" (tables 6 and 7, figure 3), "overlap" (table 8);
            by default all (overlap only with a base model, mmlu only with questions).
        quick: 12 prompts, short answers, fewer CAA arms, 40 questions: to see that it runs.
        task: behaviour of all parts but "mmlu" and two layer tasks; requests that the
            model is unable to carry out ("capability-refusal") by default. `jailbreak_task` makes
            one of your own copy of JailbreakBench.
        mmlu: your copy of the MMLU test files, see `cna.prompts.read_quiz`: 1000 questions, as many of
            each subject, by letter.
        layer_tasks: {"refusal", "capitals", "subject-verb": Task} instead of the built-in ones.
        fraction: size of the circuit of the first three parts; universal neurons are left out.
        k: size of the circuits of the layer and overlap tables, which follow the authors' options; by
            |delta|, and beside them by contribution where the model knows its weights.
        max_new_tokens: per answer; by default 40, or the paper's 150 with a task of your own.
        out: folder where finished answers are kept, so that a stopped run goes on.
    Raises:
        ValueError: unknown parts, overlap without a base model, a base model of another shape.
    """
    chosen = _parts(parts, base is not None, mmlu is not None)
    quiz = read_quiz(os.fspath(mmlu)) if mmlu is not None else None
    model = model if isinstance(model, Model) else load(model)
    base = _base(base, model)
    name, entry = paper_entry(model)
    own_task = task is not None
    task = task or tasks.load("capability-refusal")
    if max_new_tokens is None:
        max_new_tokens = 24 if quick else 150 if own_task else 40
    result = Reproduction(
        model_id=model.model_id,
        paper_model=name,
        tables={},
        notes=comparison_notes(name, entry, model, task, own_task),
        settings={
            "parts": chosen,
            "quick": quick,
            "task": task.name,
            "judge": task.judge.name,
            "fraction": fraction,
            "k": k,
            "max_new_tokens": max_new_tokens,
            **environment(model),
        },
        circuits={},
    )
    measure_behaviour(
        result,
        model,
        base,
        task,
        entry,
        chosen,
        quick=quick,
        quiz=quiz,
        questions=40 if quick else 1000,
        fraction=fraction,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    wanted = [table for part in chosen for table in _LAYER_TABLES.get(part, ())]
    if wanted:
        sets = {label: tasks.load(built_in) for label, built_in in LAYER_TASKS.items()}
        if own_task:
            sets["refusal"] = task
        sets |= dict(layer_tasks or {})
        tables, circuits, missing = localise(model, base, entry, sets, k)
        result.circuits |= circuits
        result.notes += [UNITS_NOTE, *missing]
        result.tables |= {table: tables[table] for table in wanted}
    return result


def _parts(parts: Sequence[str] | None, with_base: bool, with_quiz: bool) -> list[str]:
    needed = {"overlap": with_base, "mmlu": with_quiz}
    chosen = list(parts) if parts is not None else [p for p in PARTS if needed.get(p, True)]
    for part in chosen:
        if part not in PARTS:
            raise ValueError(
                f"reproduce: expected parts among {list(PARTS)}, got {part!r}; choose these"
            )
    if "overlap" in chosen and not with_base:
        raise ValueError(
            "reproduce: expected a base model for 'overlap', got none; pass base=..., or leave it out"
        )
    if "mmlu" in chosen and not with_quiz:
        raise ValueError(
            "reproduce: expected questions for 'mmlu', got none; pass mmlu= with your copy of its test "
            "files, or leave it out"
        )
    return chosen


def _base(base: Model | str | os.PathLike[str] | None, model: Model) -> Model | None:
    if base is None:
        return None
    base = base if isinstance(base, Model) else load(base)
    if base.widths != model.widths:
        raise ValueError(
            f"reproduce: expected a base model of {model.n_layers} layers x {model.width} neurons, "
            f"got one of {base.n_layers} x {base.width}; pass the model it was tuned from"
        )
    return base


def main_reproduce(
    model: str,
    out: str | os.PathLike[str],
    base: str | None = None,
    quick: bool = False,
    jbb: str | os.PathLike[str] | None = None,
    benign: str | os.PathLike[str] | None = None,
    discovery: str | os.PathLike[str] | None = None,
    *,
    mmlu: str | os.PathLike[str] | None = None,
    parts: Sequence[str] | None = None,
    k: int = 200,
    fraction: float = 0.001,
    dtype: str | None = "auto",
    device: str | None = "auto",
    **chat: Any,
) -> int:
    """`cna reproduce`: runs the parts, prints the tables, writes the folder. Returns 0.

    discovery: see `jailbreak_task`; parts, mmlu, k, fraction: see `reproduce`.
    dtype, device, chat: further arguments of `cna.load`; a base model, fed raw text, gets the first two.

    Raises:
        ValueError: one of `jbb` and `benign` without the other, or what `reproduce` raises.
    """
    if (jbb is None) != (benign is None):
        raise ValueError(
            "reproduce: expected files of harmful and of benign prompts, got one of them; pass both"
        )
    if discovery is not None and jbb is None:
        raise ValueError(
            "reproduce: expected --jbb beside prompts for discovery, got none; pass what is measured"
        )
    task = None
    if jbb is not None and benign is not None:
        task = jailbreak_task(jbb, benign, discovery)
    tuned = load(model, dtype=dtype, device=device, **chat)
    other = None if base is None else load(base, dtype=dtype, device=device)
    how: dict[str, Any] = {"task": task, "mmlu": mmlu, "fraction": fraction, "k": k, "out": out}
    result = reproduce(tuned, other, parts, quick, **how)
    folder = result.save(out)
    print(result)
    print(f"\nwrote {folder}")
    return 0
