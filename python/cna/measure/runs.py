"""A run folder: what a sweep or a demo leaves behind, each file written whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, Protocol

from .. import _core
from ..base.files import write_whole
from ..base.later import pd


class Run(Protocol):
    """What a run folder keeps."""

    circuit: _core.Circuit
    table: pd.DataFrame
    answers: pd.DataFrame
    settings: dict[str, Any]
    layers: pd.DataFrame | None


def save_run(result: Run, folder: Path) -> Path:
    """Writes circuit.json, table.csv, answers.csv, layers.csv and run.json; figures are drawing's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"save: expected to write to '{folder}', got {error.strerror}; choose another folder"
        ) from None
    result.circuit.save(folder / "circuit.json")
    write_whole(folder / "table.csv", lambda p: result.table.to_csv(p, index=False))
    if result.layers is not None:
        layers = result.layers
        write_whole(folder / "layers.csv", lambda p: layers.to_csv(p, index=False))
    # Quoted: a carriage return in an answer ends a row otherwise.
    quoting: Any = csv.QUOTE_NONNUMERIC
    write_whole(
        folder / "answers.csv", lambda p: result.answers.to_csv(p, index=False, quoting=quoting)
    )
    settings = json.dumps(result.settings, indent=2) + "\n"
    write_whole(folder / "run.json", lambda p: p.write_text(settings, encoding="utf-8"))
    return folder
