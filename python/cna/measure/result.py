"""What a sweep measured, and how it is drawn and kept."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

from .. import _core
from ..base.later import pd
from .choice import choose
from .paired import Setting, compare, controls
from .runs import save_run


class Drawing(Protocol):
    """How results are drawn: cna.show.drawing, which `cna` hangs in here."""

    def plot(self, table: pd.DataFrame) -> Any: ...

    def draw(
        self,
        folder: Path,
        circuit: _core.Circuit,
        table: pd.DataFrame,
        layers: pd.DataFrame | None = None,
    ) -> None: ...

    def write_page(self, folder: Path) -> None: ...

    def plot_search(self, result: Any) -> Any: ...

    def draw_search(self, result: Any, folder: Path) -> None: ...


@dataclasses.dataclass
class SweepResult:
    """What a sweep measured.

    Attributes:
        table: one row per arm; columns as in docs/evaluation.md.
        answers: one row per arm and prompt.
        settings: what it was run with.
        layers: a row per layer, the neurons that the task's discovery prompts give by |delta| and by
            contribution; see `cna.analysis.LayersByRanking`.
    """

    table: pd.DataFrame
    answers: pd.DataFrame
    settings: dict[str, Any]
    circuit: _core.Circuit
    layers: pd.DataFrame | None = None
    drawing: ClassVar[Drawing]

    def __repr__(self) -> str:
        name = self.settings.get("task", "")
        return f"SweepResult({name!r}, {len(self.table)} arms, {len(self.answers)} answers)"

    def plot(self) -> Any:
        """Behaviour rate against strength with intervals: a matplotlib Figure."""
        return self.drawing.plot(self.table)

    def compare(self, against: Setting | None = None, outcome: str = "behaviour") -> pd.DataFrame:
        """Every arm against one, the unsteered model by default: exact paired tests, Holm-corrected.

        Args:
            against: ("cna", 0) or ("caa", 20, -0.5): method, layer where it has one, strength.
            outcome: "behaviour", "other" or "broken".
        Returns:
            One row per arm; columns as in docs/evaluation.md.
        """
        return compare(self.answers, against, outcome)

    def controls(self) -> pd.DataFrame:
        """The circuit against the draws of random neurons, with an empirical p."""
        return controls(self.table, self.answers)

    def choose(self, max_kl: float = 0.1) -> pd.DataFrame:
        """Each method's best setting up to a benign KL [nats per token].

        Chosen on the prompts of even number, shown on those of odd number.
        """
        return choose(self.answers, max_kl)

    def save(self, folder: str | os.PathLike[str], report: bool = True) -> Path:
        """Writes circuit.json, table.csv, answers.csv, layers.csv, run.json, figures, report.html."""
        path = save_run(self, Path(folder))
        self.drawing.draw(path, self.circuit, self.table, self.layers)
        if report:
            self.drawing.write_page(path)
        return path

    def _repr_html_(self) -> str:
        names = "method layer strength rate other broken kl_benign answer_perplexity relevance"
        shown = [c for c in names.split() if c in self.table]
        return self.table[shown].to_html(index=False, float_format="%.3f", na_rep="")
