"""One self-contained page on a run: what was found, what steering did, and what that does not show.

The page needs no network and runs no script: its style is inline, its images are data URIs.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...base.files import write_whole
from ...circuits.layer_table import LAYER_COLUMNS
from ..plots import png
from ..run_figures import CAPTIONS, run_figures
from .figures import stored_images
from .neurons import COLUMNS
from .page import page_html
from .reading import read_circuit, read_run, read_table

__all__ = ["write_report"]


def write_report(run_folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` into a run's folder from what is there, and returns its path.

    Reads circuit.json, table.csv, answers.csv, layers.csv, neurons.csv (of `Cards.save`), run.json, and
    .png images in the folder and in figures/; each may be missing, not all. Without images, figures
    are drawn from the circuit and the tables.
    Raises:
        FileNotFoundError: nothing is at the path.
        ValueError: no folder, nothing of a run in it, or a part that is empty or malformed.
        RuntimeError: a file that cannot be read or written.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise (ValueError if folder.exists() else FileNotFoundError)(
            f"write_report: expected a run's folder, got '{folder}'; pass the folder that holds "
            "run.json"
        )
    run = read_run(folder / "run.json")
    circuit = read_circuit(folder / "circuit.json")
    table = read_table(folder / "table.csv", ("method", "strength", "rate"))
    answers = read_table(folder / "answers.csv", ("method", "strength", "prompt", "answer"))
    layers = read_table(folder / "layers.csv", LAYER_COLUMNS)
    cards = read_table(folder / "neurons.csv", COLUMNS)
    if run is None and circuit is None and table is None and answers is None:
        raise ValueError(
            "write_report: expected circuit.json, table.csv, answers.csv or run.json, got none in "
            f"'{folder}'; pass the folder of a run"
        )
    images = stored_images(folder) or [
        (CAPTIONS[name], png(figure))
        for name, figure in run_figures(circuit, table, layers).items()
    ]
    html = page_html(run or {}, circuit, table, answers, images, layers, cards)
    path = folder / "report.html"
    write_whole(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    return path
