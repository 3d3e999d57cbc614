"""HTML blocks for notebooks and pages, from templates: escaped text, light and dark, no scripts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .later import pd


@functools.cache
def _environment() -> Environment:
    """The one environment: templates lie in the folders that use them, text is escaped."""
    loader = FileSystemLoader(Path(__file__).parent.parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined)


def render(template: str, /, **values: Any) -> Markup:
    """A template as HTML; `template` is "folder/name" for cna/folder/templates/name.html.j2."""
    folder, name = template.split("/")
    page = _environment().get_template(f"{folder}/templates/{name}.html.j2")
    return Markup(page.render(**values))


def panel(parts: Iterable[Markup]) -> Markup:
    """Blocks of HTML one below the other, in the page's own colours."""
    return render("base/panel", parts=list(parts))


def rows_html(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    text_columns: Iterable[int] = (),
    more: int = 0,
) -> Markup:
    """A table for notebooks; `text_columns` stand left, the others right."""
    return render(
        "base/table",
        inline=True,
        header=header,
        rows=list(rows),
        caption=caption,
        left=set(text_columns),
        more=more,
    )


def page_table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    marks: Sequence[str] = (),
    kind: str = "numbers",
    text_columns: Iterable[int] = (),
) -> Markup:
    """A table for pages with the style sheet, which scrolls by itself; `marks` are row classes.

    `text_columns` stand left, as the first one does.
    """
    return render(
        "base/table",
        inline=False,
        header=header,
        rows=rows,
        marks=marks,
        kind=kind,
        left=set(text_columns),
        caption="",
        more=0,
    )


def lead(bold: str, words: str) -> Markup:
    """The first line of a block: what matters most, then the rest."""
    return render("base/lead", bold=bold, words=words)


def folded(title: str, body: Markup, *, open: bool = False) -> Markup:
    """A block folded away under a title."""
    return render("base/folded", title=title, body=body, open=open)


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


def frame_html(
    frame: pd.DataFrame, *, caption: str = "", most: int = 30, digits: int = 3
) -> Markup:
    """A DataFrame without its index as a table of at most `most` rows."""
    columns = [str(c) for c in frame.columns]
    values = frame.head(most).astype(object).to_numpy().tolist()
    text = [i for i in range(len(columns)) if any(isinstance(row[i], str) for row in values)]
    rows = [[number(v, digits) for v in row] for row in values]
    more = max(0, len(frame) - most)
    return rows_html(columns, rows, caption=caption, text_columns=text, more=more)


def mapping_html(title: str, values: Mapping[str, Any]) -> Markup:
    """Names and values folded away under a title; nothing for an empty mapping."""
    if not values:
        return Markup()
    rows = [
        [str(k), v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)]
        for k, v in sorted(values.items(), key=lambda item: str(item[0]))
    ]
    rows = [[k, v if len(v) <= 160 else v[:157] + "…"] for k, v in rows]
    return folded(title, rows_html(["name", "value"], rows, text_columns=(0, 1)))
