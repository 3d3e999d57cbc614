"""What a reproduction measured: tables beside the paper's, as text, as HTML and as files."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .. import _core
from ..base.files import write_whole
from ..base.html import frame_html, lead, panel, render
from ..base.later import pd
from ..measure.result import SweepResult
from .figures import as_page_images, figures_of
from .printed import paper

_TITLES = {
    "refusal": "Rate of the behaviour, before and after the circuit is switched off",
    "quality": "Strengths: CNA against CAA (alpha = 1 - m for neurons, the coefficient for vectors)",
    "controls": "Controls: random neurons, as many per layer",
    "mmlu": "Multiple-choice questions: right answers at every alpha (figure 2)",
    "examples": "One prompt: as it is, with the circuit off, with it doubled (table 4)",
    "layers": "Where the circuits sit: by |delta|, by |delta| in the answer's units, by contribution",
    "layer_counts": "Neurons per layer by |delta| and by contribution, and the sums over all neurons",
    "overlap": "Base against instruct",
}


@dataclasses.dataclass
class Reproduction:
    """What `cna.reproduce` measured, beside the paper.

    Attributes:
        model_id: of the model measured.
        paper_model: its name in the paper, or None: then the columns of the paper are empty.
        tables: {"refusal", "quality", "controls", "mmlu", "examples", "layers", "layer_counts",
            "overlap": DataFrame}, those that were asked for. Columns that begin with `paper_` are
            printed in the paper, those with `log_` are from the authors' logs, the others were measured
            here. Rates and shares are 0 to 1; low and high are 95 % intervals.
        notes: what to know when comparing.
        settings: how it was run.
        circuits: {name: Circuit}, those found on the way.
        sweep: the sweep behind the first three tables, with all answers.
    """

    model_id: str
    paper_model: str | None
    tables: dict[str, pd.DataFrame]
    notes: list[str]
    settings: dict[str, Any]
    circuits: dict[str, _core.Circuit]
    sweep: SweepResult | None = None

    def __str__(self) -> str:
        parts = [f"{self.model_id}: {self._in_paper()}"]
        for name, table in self.tables.items():
            if name == "layer_counts":  # layers that hold none are left out here
                held = ["count", "log_count", "converted_count", "contribution_count"]
                table = table[(table[held] > 0).any(axis=1)]
            text = table.to_string(index=False, na_rep="-", float_format=lambda x: f"{x:.3f}")
            parts.append(f"{_TITLES[name]}\n{text}")
        parts.append("Notes\n" + "\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"Reproduction({self.model_id!r}, {list(self.tables)})"

    def _in_paper(self) -> str:
        if self.paper_model is None:
            return "not a model of the paper, so the paper's and the logs' columns are empty"
        return f"{self.paper_model} of the paper"

    def _repr_html_(self) -> str:
        parts = [lead(f"{self.model_id}:", self._in_paper())]
        for name, table in self.tables.items():
            most = 12 if name == "layer_counts" else 60
            parts.append(frame_html(table, caption=_TITLES[name], most=most))
        parts.append(render("paper/notes", notes=self.notes))
        return panel(parts)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes each table as CSV, circuits/*.json, answers.csv, figures, reproduction.json and .html.

        Raises:
            RuntimeError: a file cannot be written.
        """
        out = Path(folder)
        for name, table in self.tables.items():
            write_whole(out / f"{name}.csv", functools.partial(_to_csv, table))
        for name, circuit in self.circuits.items():
            (out / "circuits").mkdir(parents=True, exist_ok=True)
            circuit.save(out / "circuits" / f"{name}.json")
        if self.sweep is not None:
            write_whole(out / "answers.csv", functools.partial(_to_csv, self.sweep.answers))
        about = {
            "model_id": self.model_id,
            "paper_model": self.paper_model,
            "source": paper()["source"],
            "notes": self.notes,
            "settings": self.settings,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        write_whole(out / "reproduction.json", lambda p: p.write_text(text, encoding="utf-8"))
        figures = figures_of(self.tables, self.sweep)
        for name, data in figures.items():
            (out / "figures").mkdir(exist_ok=True)
            write_whole(out / "figures" / f"{name}.png", functools.partial(_to_file, data))
        body, images = Markup(self._repr_html_()), as_page_images(figures)
        page = render("paper/page", model=self.model_id, body=body, images=images)
        write_whole(out / "reproduction.html", lambda p: p.write_text(page, encoding="utf-8"))
        return out


def _to_file(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _to_csv(table: pd.DataFrame, path: Path) -> None:
    # Text is always quoted: a lone carriage return in an answer would end a row otherwise.
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
