"""The table of model types: what ships is what the survey finds, and errors and pages read it."""

from __future__ import annotations

from pathlib import Path

import cna
import pytest
import transformers
from cna.cli import main
from cna.hosts.capabilities import COLUMNS, surveyed_with
from conftest import make_tokenizer, needs_recent
from mixtures import mixture
from models import small, survey
from models.__main__ import PAGE, page

# One of each kind: a window, experts, block kinds of a hybrid, an encoder's names, a vision tower.
SAMPLE = ("mistral", "qwen3_moe", "nemotron_h", "bert", "git")


@needs_recent
@pytest.mark.parametrize("kind", SAMPLE)
def test_a_row_of_the_table_is_what_the_survey_finds(kind: str, tmp_path: Path) -> None:
    table = cna.capabilities().set_index("type")
    found = survey.row_of(kind, tmp_path)
    for column in ("live", "peft", "export"):
        assert found[column] == table.loc[kind, column], found


def test_the_table_has_every_type_and_nothing_wrong() -> None:
    table = cna.capabilities()
    assert list(table.columns) == list(COLUMNS)
    assert not table["live"].isin(["wrong", "failed"]).any()
    assert set(table["peft"]) <= {"", "exact"}
    assert not table["export"].isin(["wrong", "failed"]).any()
    assert (table["live"] == "exact").sum() >= 115 and (table["export"] == "exact").sum() >= 65
    if f"transformers {transformers.__version__}," in surveyed_with():
        assert set(table["type"]) == set(small.types())


def test_the_page_is_the_tables() -> None:
    rows = cna.capabilities().to_dict("records")
    assert PAGE.read_text(encoding="utf-8") == page(rows, surveyed_with())


def test_a_refusal_says_what_the_table_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(cna models: 'jetmoe' is exact with cna\.live\)$"):
        cna.export(mixture("jetmoe"), make_tokenizer(), tmp_path / "m")


def test_the_shell_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    whole = capsys.readouterr().out
    assert f"{len(cna.capabilities())} types: " in whole and surveyed_with() in whole
    assert main(["models", "jetmoe", "llama"]) == 0
    two = capsys.readouterr().out
    assert "2 types: 2 exact live, 1 exact exported" in two and "whose routing can be traced" in two
    assert main(["models", "--live", "refused"]) == 0
    assert "llama" not in capsys.readouterr().out
    assert main(["models", "no-such-type"]) == 2
    assert "models: expected types that were surveyed" in capsys.readouterr().err
