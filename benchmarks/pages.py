"""Tables in documentation pages, between the marks <!-- NAME:begin --> and <!-- NAME:end -->."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def fill(page: Path, tables: Mapping[str, str]) -> None:
    """Puts each table between the marks of its name, where the page has them."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if begin in text and end in text:
            head, rest = text.split(begin, 1)
            text = f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
    page.write_text(text, encoding="utf-8")
