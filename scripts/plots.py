"""Draws the figures of docs/plots.md: those of the demo's first behaviour, and the others on its model.

python scripts/plots.py: after make demo; some minutes.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import cna
from cna.paper import reproduce

ROOT = Path(__file__).parents[1]
DEMO, FIGURES = ROOT / "demo-out", ROOT / "docs" / "figures"


def main() -> None:
    for path in sorted((DEMO / "figures").glob("*.png")):
        shutil.copyfile(path, FIGURES / f"plot-{path.name}")
    model, task = cna.load("smollm2"), cna.tasks.load("capability-refusal")

    def keep(name: str, figure: object) -> None:
        cna.plots.save(figure, FIGURES / f"plot-{name}.png", dpi=110)  # type: ignore[arg-type]

    delta = cna.Circuit.load(DEMO / "circuit.json")
    other = cna.discover(model, task.positive, task.negative, ranking="contribution")
    keep("overlap", cna.plots.overlap(delta, other, names=("by |delta|", "by contribution")))
    sets = cna.analysis.record_sets(model, task.positive, task.negative)
    keep("stability", cna.plots.stability(cna.analysis.stability(sets)))
    quiz = Path(str(resources.files("cna.prompts").joinpath("data/quiz.csv")))
    found = reproduce(model, parts=["mmlu"], quick=True, mmlu=quiz, progress=False)
    keep("accuracy_by_alpha", cna.plots.accuracy_by_alpha(found.tables["mmlu"]))


if __name__ == "__main__":
    main()
