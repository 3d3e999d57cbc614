"""A run folder: what a sweep or a demo leaves behind, each file written whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_whole

if TYPE_CHECKING:
    from .sweep import SweepResult


def save_run(result: SweepResult, folder: Path, report: bool = True) -> Path:
    """circuit.json, table.csv, answers.csv, run.json, figures/*.png and report.html."""
    from . import plots
    from .report import write_report

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"save: expected to write to '{folder}', got {error.strerror}; choose another folder"
        ) from None
    result.circuit.save(folder / "circuit.json")
    write_whole(folder / "table.csv", lambda p: result.table.to_csv(p, index=False))
    # Quoted: a carriage return in an answer ends a row otherwise.
    quoting: Any = csv.QUOTE_NONNUMERIC
    write_whole(
        folder / "answers.csv", lambda p: result.answers.to_csv(p, index=False, quoting=quoting)
    )
    settings = json.dumps(result.settings, indent=2) + "\n"
    write_whole(folder / "run.json", lambda p: p.write_text(settings, encoding="utf-8"))
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    plots.save(plots.layer_histogram(result.circuit), figures / "layers.png")
    plots.save(plots.neuron_strip(result.circuit), figures / "neurons.png")
    plots.save(plots.dose_response(result.table), figures / "dose_response.png")
    plots.save(plots.quality_against_effect(result.table), figures / "quality_against_effect.png")
    if "kl" in result.table:
        plots.save(plots.matched_kl(result.table), figures / "matched_kl.png")
    if report:
        write_report(folder)
    return folder
