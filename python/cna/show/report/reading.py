"""The parts of a run's folder, read and checked; None for a part that is not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..._core import Circuit
from ...base.errors import first_line
from ...base.later import pd
from ...measure.kinds import with_kinds

_NUMBERS = (
    "strength neutral draw layer index rate rate_low rate_high other other_low other_high broken "
    "broken_low broken_high benign_rate benign_low benign_high benign_broken benign_quality "
    "benign_quality_low benign_quality_high quality quality_low quality_high word_quality "
    "word_quality_low word_quality_high judged_low judged_high composite "
    "kl kl_benign kl_benign_low kl_benign_high kl_evaluation answer_kl answer_perplexity relevance "
    "relevance_low relevance_high perplexity accuracy accuracy_low accuracy_high p_value "
    "delta_count converted_count contribution_count delta_sum converted_sum contribution_sum"
).split()


def read_run(path: Path) -> dict[str, Any] | None:
    """run.json as a dict."""
    text = _text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"write_report: expected a JSON object, got something else in '{path}'; run again"
        )
    return value


def read_circuit(path: Path) -> Circuit | None:
    """circuit.json as a circuit."""
    text = _text(path)
    if text is None:
        return None
    try:
        return Circuit.from_json(text)
    except (ValueError, IndexError) as error:
        reason = first_line(error)
        raise ValueError(
            f"write_report: expected a circuit in '{path}', got one that does not read ({reason}); "
            "run again"
        ) from None


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """A CSV file that has `columns`, known number columns as floats, with today's names."""
    if _text(path) is None:
        return None
    try:
        # Text stays text: an answer may read "NA".
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no table"])[-1]
        raise ValueError(
            f"write_report: expected a CSV table, got '{path}' ({reason}); run again"
        ) from None
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(
            f"write_report: expected the columns {', '.join(columns)}, got '{path}' without "
            f"{', '.join(missing)}; run again"
        )
    if frame.empty:
        raise ValueError(
            f"write_report: expected rows, got a header alone in '{path}'; delete it or run again"
        )
    for column in frame.columns.intersection(_NUMBERS):
        cells = frame[column].where(~frame[column].isin(["", "<NA>", "nan", "NaN", "None"]))
        values = pd.to_numeric(cells, errors="coerce")
        wrong = cells.notna() & values.isna()
        if wrong.any():
            raise ValueError(
                f"write_report: expected numbers in the column {column}, got "
                f"{cells[wrong].iloc[0]!r} in '{path}'; run again"
            )
        frame[column] = values.astype("float64")
    try:
        return with_kinds(frame) if "method" in frame else frame
    except ValueError as error:
        raise ValueError(f"write_report: {first_line(error)} (in '{path}')") from None


def _text(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"write_report: expected UTF-8 text, got other bytes in '{path}'; run again"
        ) from None
    except OSError as error:
        raise RuntimeError(
            f"write_report: expected to read '{path}', got: {error.strerror or error}; check it"
        ) from None
    if not text.strip():
        raise ValueError(
            f"write_report: expected content, got the empty file '{path}'; delete it or run again"
        )
    return text
