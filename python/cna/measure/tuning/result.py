"""What a search found: the setting that it chose, all that it tried, and both on fresh prompts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from ... import _core
from ...base.files import write_whole
from ...base.html import frame_html, lead, panel
from ...base.later import pd
from ...circuits.operation import Operation, save_steering
from ..result import SweepResult
from .candidate import Candidate
from .search import front


@dataclasses.dataclass
class TuneResult:
    """What `cna.tune` found.

    Attributes:
        operation, strength: the choice: `with model.steer(best.operation, best.strength)`.
        table: one row a candidate: its fields, left, rate, other, broken, astray, kl and kl_error on
            the choice half; `kind` tells circuits from the baselines.
        chosen: the row of the choice; within_bound: whether it kept to the bound there.
        evaluation: the choice beside CAA and the prompt baseline on the evaluation prompts, a sweep.
        settings: what the search was run with.
    """

    operation: Operation
    strength: float
    table: pd.DataFrame
    chosen: dict[str, Any]
    within_bound: bool
    evaluation: SweepResult
    settings: dict[str, Any]

    @property
    def circuit(self) -> _core.Circuit:
        """The chosen neurons."""
        return self.operation.circuit

    @property
    def name(self) -> str:
        """The choice in one line."""
        return Candidate.of(self.chosen).name

    @property
    def front(self) -> pd.DataFrame:
        """The circuits that no other one beats in both what is left and the KL, by rising KL."""
        return front(self.table[self.table["kind"] == "circuit"])

    def __repr__(self) -> str:
        bound = "within" if self.within_bound else "NOT within"
        left, kl = self.chosen["left"], self.chosen["kl"]
        return f"TuneResult({self.name}: {left:.2f} left at KL {kl:.3f}, {bound} the bound)"

    def _repr_html_(self) -> str:
        tried = len(self.table[self.table["kind"] == "circuit"])
        kept = "" if self.within_bound else ", which is beyond the bound"
        head = lead(
            f"{self.name}:",
            f"of {tried} candidates, {self.chosen['left']:.0%} of the behaviour left at a benign KL "
            f"of {self.chosen['kl']:.3f}{kept}, on the choice half. Those that no other one beats:",
        )
        columns = ["ranking", "penalty", "k", "first_layer", "operation", "strength", "left", "kl"]
        return panel([head, frame_html(self.front[columns])])

    def plot(self) -> Any:
        """What is left against the KL: all candidates, their front, the baselines, the choice."""
        return self.evaluation.drawing.plot_search(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes a run folder that `generate`, `sweep` and `convert` take.

        The evaluation's files, and steering.json (operation and strength), trials.csv and front.png.
        """
        path = self.evaluation.save(folder)
        save_steering(self.operation, self.strength, path)
        write_whole(path / "trials.csv", lambda p: self.table.to_csv(p, index=False))
        chosen = {k: v for k, v in self.chosen.items() if not pd.isna(v)}  # JSON has no NaN
        about = {"chosen": chosen, "within_bound": self.within_bound, **self.settings}
        text = json.dumps(about, indent=2, default=str, allow_nan=False) + "\n"
        write_whole(path / "tune.json", lambda p: p.write_text(text, encoding="utf-8"))
        self.evaluation.drawing.draw_search(self, path)
        return path
