"""The page as a whole: its head, its facts and its sections in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from ..._core import Circuit
from .answers import answers_html
from .figures import figures_html
from .limits import limits_html
from .sections import circuit_html, lead_html, methods_html, settings_html
from .settings import chosen_settings
from .style import STYLE


def page_html(
    run: Mapping[str, Any],
    circuit: Circuit | None,
    table: pd.DataFrame | None,
    answers: pd.DataFrame | None,
    images: Sequence[tuple[str, bytes]],
) -> str:
    """The whole page from the parts of a run."""
    provenance = circuit.provenance if circuit is not None else {}
    task = _first(run, ("task", "task_name"))
    task_name = str(task.get("name", "")) if isinstance(task, Mapping) else str(task or "")
    about = task.get("description", "") if isinstance(task, Mapping) else run.get("description", "")
    model = str(_first(run, ("model_id", "model")) or provenance.get("model_id", ""))
    title = f"Steering: {task_name}" if task_name else "Steering run"
    chosen = chosen_settings(table)
    sections = [
        lead_html(table, chosen),
        _section("The circuit", circuit_html(circuit)),
        _section("Methods and strengths", methods_html(table)),
        _section("Figures", figures_html(images)),
        _section("Answers before and after", answers_html(answers, chosen)),
        _section("What this does not show", limits_html(table, circuit, answers)),
        _section("Settings and provenance", settings_html(run, circuit)),
    ]
    facts = [f"Model <code>{escape(model)}</code>" if model else ""]
    facts.append(f"Task <code>{escape(task_name)}</code>" if task_name else "")
    facts.append(escape(str(run.get("date", run.get("created", "")))))
    line = " · ".join(f for f in facts if f)
    description = f"<p>{escape(str(about))}</p>" if about else ""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p class='facts'>{line}</p>{description}</header>"
        + "".join(sections)
        + "</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    settings = values.get("settings")
    for name in names:
        if values.get(name):
            return values[name]
        if isinstance(settings, Mapping) and settings.get(name):
            return settings[name]
    return None
