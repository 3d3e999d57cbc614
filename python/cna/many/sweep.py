"""A sweep whose answers are shared out over all processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import _core
from ..hosts.model import Model
from ..hosts.shard import require_all_ranks
from ..measure.answers import AnswerLog, answer_jobs, jobs_of, prompt_ids
from ..measure.arm import Arm
from ..measure.marks import mark
from ..measure.options import SweepOptions, sweep_options
from ..measure.plan import plan
from ..measure.result import SweepResult
from ..measure.sweep import sweep
from ..prompts.quiz import Question
from ..prompts.tasks import Task
from .ranks import group


def sweep_distributed(
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
) -> SweepResult | None:
    """As `cna.sweep`, the answers shared out over all processes; the result on rank 0.

    Every rank calls it with the same arguments; `out`, a folder that all processes share, is needed.
    Each rank appends its answers to `answers-<rank>.jsonl`; rank 0 merges them into `answers.jsonl`
    and measures the rest. A killed run goes on from all of these files.

    Raises:
        ValueError: as `cna.sweep`, or no `out`.
        RuntimeError: a rank was lost; the message names it.
    """
    require_all_ranks(model, "sweep")
    options = sweep_options(options, multipliers, baselines, settings)
    if out is None:
        raise ValueError(
            "sweep: expected out= for a run of several processes, got none; name a folder that they "
            "share"
        )
    folder = Path(out)
    todo = plan(model, circuit, task, options, arms=arms, progress=progress)
    batch = options.batch_size
    with group("sweep") as processes:
        ids = prompt_ids(model, todo.arms, todo.prompts, task.chat)
        jobs = jobs_of(todo.arms, todo.prompts)
        missing: list[int] = []
        marks = {arm.key: mark(arm) for arm in todo.arms}
        if processes.rank == 0:
            done = _merge_answers(folder, todo.fingerprint).done
            missing = [
                j for j, (arm, name, i) in enumerate(jobs) if (marks[arm.key], name, i) not in done
            ]
        # Rank 0 takes the answers again: a vector's last bits may differ on another processor.
        missing, marks = processes.share([missing, marks])
        rank = processes.rank
        batches = [missing[i : i + batch] for i in range(0, len(missing), batch)]
        mine = [jobs[j] for part in batches[rank :: processes.world] for j in part]
        log = AnswerLog(folder / f"answers-{rank}.jsonl", todo.fingerprint)
        answer_jobs(
            model,
            mine,
            ids,
            max_new_tokens=options.most_tokens,
            batch_size=batch,
            log=log,
            progress=progress and rank == 0,
            marks=marks,
        )
        processes.wait()
        if rank != 0:
            return None
        _merge_answers(folder, todo.fingerprint)
    return sweep(
        model, circuit, task, options=options, quiz=quiz, arms=arms, out=out, progress=progress
    )


def _merge_answers(folder: Path, fingerprint: str) -> AnswerLog:
    """Takes the answers of all ranks into answers.jsonl; their files go when it is on the disk."""
    whole = AnswerLog(folder / "answers.jsonl", fingerprint)
    for path in sorted(folder.glob("answers-*.jsonl")):
        part = AnswerLog(path, fingerprint).done
        new = [(key, tokens) for key, tokens in part.items() if key not in whole.done]
        if new:
            whole.add(new)
        path.unlink()
    return whole
