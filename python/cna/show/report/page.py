"""The page as a whole: its head, its facts and its sections in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..._core import Circuit
from ...base.html import render
from ...base.later import pd
from .answers import answers_html
from .comparisons import comparisons_html
from .figures import figures_html
from .layers import layers_html
from .limits import limits_html
from .neurons import neurons_html
from .sections import circuit_html, lead_html, methods_html, settings_html
from .settings import chosen_rows, chosen_settings


def page_html(
    run: Mapping[str, Any],
    circuit: Circuit | None,
    table: pd.DataFrame | None,
    answers: pd.DataFrame | None,
    images: Sequence[tuple[str, bytes]],
    layers: pd.DataFrame | None = None,
    cards: pd.DataFrame | None = None,
) -> str:
    """The whole page from the parts of a run."""
    provenance = circuit.provenance if circuit is not None else {}
    task = _first(run, ("task", "task_name"))
    task_name = str(task.get("name", "")) if isinstance(task, Mapping) else str(task or "")
    about = task.get("description", "") if isinstance(task, Mapping) else run.get("description", "")
    model = str(_first(run, ("model_id", "model")) or provenance.get("model_id", ""))
    title = f"Steering: {task_name}" if task_name else "Steering run"
    chosen, halves = chosen_settings(table, answers), chosen_rows(answers)
    missing = str(_first(run, ("layers_missing",)) or "")
    return render(
        "show/report",
        title=title,
        model=model,
        task=task_name,
        date=str(run.get("date", run.get("created", ""))),
        about=str(about),
        lead=lead_html(table, chosen, halves),
        sections=[
            ("The circuit", circuit_html(circuit)),
            ("What its neurons do", neurons_html(cards)),
            ("Layers by |delta| and by contribution", layers_html(layers, missing)),
            ("Methods and strengths", methods_html(table)),
            ("Comparisons", comparisons_html(table, answers, halves)),
            ("Figures", figures_html(images)),
            ("Answers before and after", answers_html(answers, chosen)),
            ("What this does not show", limits_html(table, circuit, answers, layers)),
            ("Settings and provenance", settings_html(run, circuit)),
        ],
    )


def _first(values: Mapping[str, Any], names: Iterable[str]) -> Any:
    settings = values.get("settings")
    for name in names:
        if values.get(name):
            return values[name]
        if isinstance(settings, Mapping) and settings.get(name):
            return settings[name]
    return None
