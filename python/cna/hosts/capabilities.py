"""Capabilities: which model types of transformers work on which host, as the survey found them.

The table is measured, not claimed: `make models` builds every causal language model type of the pinned
transformers small, compares each host with plain modules, and writes it (tests/python/models/survey.py).

    exact        recordings at all sites, steering, logits and answers are those of plain hooks
    refused      a ValueError says why
    not built    the survey made no small model of it; `cna.live` compares any model with plain passes
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

from ..base.later import pd

TABLE = Path(__file__).with_name("models.csv")
COLUMNS = ("type", "live", "live_note", "peft", "export", "export_note")


@functools.cache
def _rows() -> dict[str, dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        file.readline()  # the versions
        return {row["type"]: row for row in csv.DictReader(file)}


def surveyed_with() -> str:
    """The versions that the table was made with."""
    with TABLE.open(encoding="utf-8") as file:
        return file.readline().strip("# \n")


def capabilities() -> pd.DataFrame:
    """One row a model type: what the live host, a PEFT adapter on it, and exports give.

    Columns: type, live, live_note, peft, export, export_note.
    """
    return pd.DataFrame(list(_rows().values()), columns=list(COLUMNS))


def known_of(hf_model: Any, function: str) -> str:
    """What the survey says of a model's type where `function` ("export" or "live") refuses; or ""."""
    kind = getattr(getattr(hf_model, "config", None), "model_type", "")
    row = _rows().get(kind)
    if row is None or row["live"] == "not built":
        return ""
    if function == "export" and row["live"] == "exact":
        other = ", exported too" if row["export"] == "exact" else ""
        return f" (cna models: '{kind}' is exact with cna.live{other})"
    if function == "live" and row["live"] != "exact":
        return f" (cna models: '{kind}' is {row['live']})"
    return ""
