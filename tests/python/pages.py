"""The code blocks of README, CONTRIBUTING and docs/."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(os.environ.get("CNA_SOURCE") or Path(__file__).parents[2])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, body) of each block of a page."""
    return re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in fences(page) if language in languages]


def with_blocks(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]
