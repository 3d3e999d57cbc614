"""The figures and the page of a run folder; matplotlib is imported on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from .._core import Circuit


def plot(table: pd.DataFrame) -> Any:
    """Behaviour rate against strength with intervals: a matplotlib Figure."""
    from . import plots

    return plots.dose_response(table)


def draw(folder: Path, circuit: Circuit, table: pd.DataFrame) -> None:
    """Writes figures/*.png."""
    from . import plots

    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    plots.save(plots.layer_histogram(circuit), figures / "layers.png")
    plots.save(plots.neuron_strip(circuit), figures / "neurons.png")
    plots.save(plots.dose_response(table), figures / "dose_response.png")
    plots.save(plots.quality_against_effect(table), figures / "quality_against_effect.png")
    if "kl" in table:
        plots.save(plots.matched_kl(table), figures / "matched_kl.png")


def write_page(folder: Path) -> None:
    """Writes report.html from what the folder holds."""
    from .report import write_report

    write_report(folder)
