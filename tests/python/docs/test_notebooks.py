"""The example notebooks run from top to bottom: the first with few prompts, nightly all as they are."""

from __future__ import annotations

import importlib.util
import io
import os
import warnings
from pathlib import Path
from typing import Any

import cna
import pandas as pd
import pytest

for _name in ("nbformat", "nbclient", "ipykernel"):
    if importlib.util.find_spec(_name) is None:
        pytest.skip(f"{_name} is not installed", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat
    from nbclient import NotebookClient

pytestmark = pytest.mark.filterwarnings("ignore")

WIDGET = "application/vnd.jupyter.widget-view+json"
EXAMPLES = Path(__file__).parents[3] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb")) if EXAMPLES.is_dir() else []
ON_PUSH = ("01_find_a_circuit",)
RUNS = [pytest.param(p, True, id=f"{p.stem}-fast") for p in NOTEBOOKS if p.stem in ON_PUSH]
RUNS += [pytest.param(p, False, id=p.stem, marks=pytest.mark.nightly) for p in NOTEBOOKS]


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[Any]:
    """A cell's outputs but notes on stderr, such as those of a first export, and bars."""
    return [
        o
        for o in cell.outputs
        if getattr(o, "name", "stdout") != "stderr" and WIDGET not in getattr(o, "data", {})
    ]


def kinds(cell: Any) -> list[Any]:
    """What a cell shows: text, pictures, and tables by their columns."""
    out: list[Any] = []
    for output in shown(cell):
        data = getattr(output, "data", {})
        columns = [list(map(str, table.columns)) for table in tables_of(output)]
        out.append(("text" if output.output_type == "stream" else sorted(data), columns))
    return out


def tables_of(output: Any) -> list[pd.DataFrame]:
    html = getattr(output, "data", {}).get("text/html", "")
    return pd.read_html(io.StringIO(html)) if "<table" in html else []


def tables(cell: Any) -> list[pd.DataFrame]:
    return [table for output in shown(cell) for table in tables_of(output)]


# Shares of so many answers: another processor's last bits may turn one of all that a column counts.
ANSWERS = {"left": 16}


def assert_alike(got: pd.DataFrame, kept: pd.DataFrame) -> None:
    """Tables of one notebook, run twice: numbers within a twentieth of a column's largest; of counted
    answers, all but one are the same.
    """
    assert got.shape == kept.shape
    for column in kept:
        if pd.api.types.is_numeric_dtype(kept[column]):
            most = float(kept[column].abs().max())
            gaps = (got[column].astype(float) - kept[column].astype(float)).abs()
            if column in ANSWERS:
                assert gaps.sum() <= 1 / ANSWERS[column] + 1e-3, (column, gaps)
            else:
                assert not gaps.max() > 0.05 * most + 1e-6, (column, gaps.max(), most)


def test_notebooks_are_committed_with_their_outputs() -> None:
    for path in NOTEBOOKS:
        cells = code_cells(read(path))
        assert all(cell.execution_count for cell in cells), f"{path.name}: run make notebooks"
        assert any("image/png" in getattr(o, "data", {}) for c in cells for o in c.outputs), (
            path.name
        )
        assert str(Path.home()) not in path.read_text(encoding="utf-8")  # no path of a machine


def test_notebooks_are_numbered_from_one() -> None:
    assert [int(p.name[:2]) for p in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
    assert len(NOTEBOOKS) >= 4 and set(ON_PUSH) < {p.stem for p in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_prose_and_short_cells(path: Path) -> None:
    nb = read(path)
    nbformat.validate(nb)
    assert nb.cells[0].cell_type == "markdown"
    assert nb.cells[0].source.startswith(f"# {int(path.name[:2])}. ")
    cells = [c for c in nb.cells if c.cell_type == "code"]
    assert max(len(c.source.splitlines()) for c in cells) <= 20
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]


@pytest.mark.smollm2
@pytest.mark.parametrize(("path", "fast"), RUNS)
def test_a_notebook_runs(
    path: Path, fast: bool, smollm2: cna.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`smollm2` is asked for so that the export is made before the clock runs."""
    monkeypatch.setenv("CNA_FAST", "1" if fast else "0")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    nb = read(path)
    NotebookClient(
        nb,
        timeout=300 if fast else 3600,  # a cell
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    ).execute()
    keep = os.environ.get("CNA_KEEP_NOTEBOOKS")  # a folder, to look at what ran
    if keep and not fast:
        nbformat.write(nb, Path(keep) / path.name)
    before, after = code_cells(read(path)), code_cells(nb)
    assert not [o for cell in after for o in cell.outputs if o.output_type == "error"]
    assert [kinds(cell) for cell in after] == [kinds(cell) for cell in before], (
        "the committed outputs are of another kind; run make notebooks"
    )
    if not fast:
        for new, old in zip(after, before, strict=True):
            for got, kept in zip(tables(new), tables(old), strict=True):
                assert_alike(got, kept)
