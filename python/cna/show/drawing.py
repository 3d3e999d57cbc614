"""The figures and the page of a run folder; matplotlib is imported on first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._core import Circuit
from ..base.later import pd


def plot(table: pd.DataFrame) -> Any:
    """Behaviour rate against strength with intervals: a matplotlib Figure."""
    from . import plots

    return plots.dose_response(table)


def draw(
    folder: Path, circuit: Circuit, table: pd.DataFrame, layers: pd.DataFrame | None = None
) -> None:
    """Writes figures/*.png."""
    from .plots import save
    from .run_figures import run_figures

    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    for name, figure in run_figures(circuit, table, layers).items():
        save(figure, figures / f"{name}.png")


def write_page(folder: Path) -> None:
    """Writes report.html from what the folder holds."""
    from .report import write_report

    write_report(folder)


def plot_search(result: Any) -> Any:
    """What a search found: what is left against the KL, as a matplotlib Figure."""
    from .plots.search import search_figure

    return search_figure(result.table, result.front, result.chosen, result.settings["max_kl"])


def draw_search(result: Any, folder: Path) -> None:
    """Writes figures/front.png."""
    from .plots import save

    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    save(plot_search(result), figures / "front.png")
