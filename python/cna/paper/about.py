"""What a reproduction says of itself: how it was run, and how it differs from the paper's."""

from __future__ import annotations

import platform
from typing import Any

from ..hosts.about import about_model
from ..hosts.model import Model
from ..prompts.tasks import Task
from .printed import paper


def environment(model: Model) -> dict[str, Any]:
    """Weights, their type and place, template, active steering, and versions."""
    about = about_model(model)
    about["versions"]["python"] = platform.python_version()
    return about


def comparison_notes(
    name: str | None, entry: dict[str, Any], model: Model, task: Task, own_task: bool
) -> list[str]:
    """What to know when comparing with the paper, whose name of the model and numbers are given."""
    notes = []
    if name is None:
        notes.append(f"The paper has no {model.model_id}: its columns and the logs' are empty.")
    else:
        notes += list(paper()["notes"].values())
        if str(model.dtype) != "torch.bfloat16":
            notes.append(f"The authors ran in bfloat16, this run is in {str(model.dtype)[6:]}.")
        if "layers" not in entry:
            notes.append(f"The authors give no layer tables for {name}.")
    if own_task:
        notes.append(f"Task {task.name!r}, judge {task.judge.name!r}: {task.description}")
    else:
        notes.append(
            "The behaviour measured here is declining requests that the model is unable to carry "
            "out; the paper measures declining harmful ones, so compare directions, not levels. "
            "Pass a task made of your own copy of the paper's prompts for the same measure."
        )
    notes.append(
        "Layer tables: capitals and subject-verb are found on the authors' own 10 and 8 pairs "
        "(tasks capitals-paper, agreement-paper)"
        + ("" if own_task else ", refusal on this library's requests instead of their 8 pairs")
        + "; layer_tasks= takes others."
    )
    return notes
