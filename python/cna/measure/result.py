"""What a sweep measured, and how it is drawn and kept."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pandas as pd

from .. import _core
from .runs import save_run


class Drawing(Protocol):
    """How results are drawn: cna.show.drawing, which `cna` hangs in here."""

    def plot(self, table: pd.DataFrame) -> Any: ...

    def draw(self, folder: Path, circuit: _core.Circuit, table: pd.DataFrame) -> None: ...

    def write_page(self, folder: Path) -> None: ...


@dataclasses.dataclass
class SweepResult:
    """What a sweep measured.

    Attributes:
        table: one row per arm; columns as in docs/evaluation.md.
        answers: one row per arm and prompt.
        settings: what it was run with.
    """

    table: pd.DataFrame
    answers: pd.DataFrame
    settings: dict[str, Any]
    circuit: _core.Circuit
    drawing: ClassVar[Drawing]

    def plot(self) -> Any:
        """Behaviour rate against strength with intervals: a matplotlib Figure."""
        return self.drawing.plot(self.table)

    def save(self, folder: str | os.PathLike[str], report: bool = True) -> Path:
        """Writes circuit.json, table.csv, answers.csv, run.json, figures and report.html."""
        path = save_run(self, Path(folder))
        self.drawing.draw(path, self.circuit, self.table)
        if report:
            self.drawing.write_page(path)
        return path

    def _repr_html_(self) -> str:
        shown = [
            c for c in ("method", "layer", "strength", "rate", "quality", "kl") if c in self.table
        ]
        return self.table[shown].to_html(index=False, float_format="%.3f", na_rep="")
