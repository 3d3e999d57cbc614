"""The user's own copy of the paper's prompts, as a task."""

from __future__ import annotations

import os
from pathlib import Path

from ..prompts import judges, tasks
from ..prompts.readers import read_csv, read_prompts
from ..prompts.tasks import Task


def jailbreak_task(
    harmful: str | os.PathLike[str],
    benign: str | os.PathLike[str],
    discovery: str | os.PathLike[str] | None = None,
) -> Task:
    """A task of the user's own files of requests; none ship with this library.

    Args:
        harmful: requests to measure on, a CSV file of JBB-Behaviors (column Goal) or any file that
            `cna.prompts.read_prompts` takes.
        benign: harmless requests, likewise.
        discovery: other harmful requests to find the circuit with, as in the paper; then all of
            `harmful` are measured. Without it every other prompt of both files is for discovery and
            the rest for measuring, for the two must not share prompts.
    The judge is "refusal-13". Raises ValueError for bad files or shared prompts.
    """
    measured, harmless = _requests(Path(harmful)), _requests(Path(benign))
    if discovery is None:
        positive, evaluation = measured[0::2], measured[1::2]
        how = "every other prompt of both files finds the circuit, the rest measure it"
    else:
        positive, evaluation = _requests(Path(discovery)), measured
        how = "the circuit was found with other prompts than it was measured on"
    negative, held_out = harmless[0::2], harmless[1::2]
    shared = {" ".join(p.casefold().split()) for p in positive} & {
        " ".join(p.casefold().split()) for p in evaluation
    }
    if shared:
        raise ValueError(
            f"jailbreak_task: expected discovery and evaluation prompts to differ, got "
            f"{len(shared)} shared; remove them from one file"
        )
    if not evaluation or not negative:
        raise ValueError(
            f"jailbreak_task: expected at least two prompts in each file, got {len(measured)} and "
            f"{len(harmless)}; add prompts"
        )
    return Task(
        name=Path(harmful).stem,
        description=f"The user's own requests; {how}.",
        positive=positive,
        negative=negative,
        evaluation=evaluation,
        benign=held_out,
        judge=judges.get("refusal-13"),
        source=f"{harmful}, {benign}",
    )


def _requests(path: Path) -> list[str]:
    if path.suffix.lower() == ".csv" and path.exists():
        rows = read_csv(path, "jailbreak_task")
        if rows and "goal" in [cell.strip().lower() for cell in rows[0]]:
            return tasks.read_jailbreakbench(path)
    return read_prompts(path)
