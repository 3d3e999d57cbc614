"""HTML blocks for notebooks: inline styles that read on light and dark pages, escaped text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


_CELL = "padding:0.15em 0.9em 0.15em 0;text-align:{};border:0;background:none"


FAINT = "color:currentColor;opacity:0.72"


def panel(parts: Iterable[str]) -> str:
    """Blocks of HTML one below the other, in the page's own colours."""
    style = "font-size:0.95em;line-height:1.45;max-width:52em;overflow-x:auto"
    return f"<div style='{style}'>" + "".join(parts) + "</div>"


def rows_html(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    raw: bool = False,
    text_columns: Iterable[int] = (),
) -> str:
    """A table. Cells are escaped unless `raw`; `text_columns` stand left, the others right."""
    left = set(text_columns)

    def cell(tag: str, i: int, value: Any, escaped: bool) -> str:
        style = _CELL.format("left" if i in left else "right")
        return f"<{tag} style='{style}'>{value if escaped else escape(str(value))}</{tag}>"

    head = "".join(cell("th", i, h, False) for i, h in enumerate(header))
    body = "".join(
        "<tr style='background:none'>"
        + "".join(cell("td", i, value, raw) for i, value in enumerate(row))
        + "</tr>"
        for row in rows
    )
    top = f"<div style='{FAINT};margin-top:0.5em'>{escape(caption)}</div>" if caption else ""
    style = "border-collapse:collapse;margin:0.3em 0;color:inherit;font-size:inherit"
    rule = "border-bottom:1px solid currentColor;background:none"
    return (
        f"{top}<table style='{style}'><thead><tr style='{rule}'>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def number(value: Any, digits: int = 3) -> str:
    """A cell as text: `digits` significant places, a dash where nothing is."""
    if value is None or value is False or value is True:
        return "–" if value is None else ("yes" if value else "no")
    if isinstance(value, str):
        return value
    try:
        x = float(value)
    except (TypeError, ValueError):
        return "–" if str(value) in ("<NA>", "NaT") else str(value)
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == int(x) and abs(x) < 1e9:
        return f"{int(x):,}".replace("-", "−")
    return f"{x:.{digits}g}".replace("-", "−")


def frame_html(frame: pd.DataFrame, *, caption: str = "", most: int = 30, digits: int = 3) -> str:
    """A DataFrame without its index as a table of at most `most` rows."""
    columns = [str(c) for c in frame.columns]
    values = frame.head(most).astype(object).to_numpy().tolist()
    text = [i for i in range(len(columns)) if any(isinstance(row[i], str) for row in values)]
    rows = [[number(v, digits) for v in row] for row in values]
    out = rows_html(columns, rows, caption=caption, text_columns=text)
    if len(frame) > most:
        out += f"<div style='{FAINT}'>… and {len(frame) - most:,} more rows</div>"
    return out


def mapping_html(title: str, values: Mapping[str, Any]) -> str:
    """Names and values folded away under a title; nothing for an empty mapping."""
    if not values:
        return ""
    rows = [
        [str(k), v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)]
        for k, v in sorted(values.items(), key=lambda item: str(item[0]))
    ]
    rows = [[k, v if len(v) <= 160 else v[:157] + "…"] for k, v in rows]
    table = rows_html(["name", "value"], rows, text_columns=(0, 1))
    return f"<details><summary>{escape(title)}</summary>{table}</details>"
