"""Runs the notebooks of examples/ from top to bottom and keeps what they show.

python scripts/notebooks.py [NAME ...]: those whose file names begin so; all by default.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"  # transformers' bars, for instance
EXAMPLES = Path(__file__).parents[1] / "examples"


def tidy(notebook: Any) -> None:
    """Leaves out what differs from run to run: notes on stderr, bars, times, the kernel's version."""
    for key in ("language_info", "widgets"):
        notebook.metadata.pop(key, None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [
                o
                for o in cell.outputs
                if getattr(o, "name", "stdout") != "stderr" and WIDGET not in getattr(o, "data", {})
            ]


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:  # what a notebook writes
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=where).execute()
    tidy(notebook)
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    os.replace(part, path)


def main(names: list[str]) -> None:
    os.environ["CNA_PROGRESS"] = "0"
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        if not names or path.name.startswith(tuple(names)):
            print(path.name, flush=True)
            run(path)


if __name__ == "__main__":
    main(sys.argv[1:])
