"""docs/internals.md has one sentence for every file of ours, and no sentence without a file."""

from __future__ import annotations

import re

from pages import ROOT

PAGE = ROOT / "docs" / "internals.md"
KINDS = {".hpp", ".cpp", ".py", ".j2"}


def sources() -> set[str]:
    """Headers, sources, bindings, modules and templates, by their path in the repository."""
    found = set()
    for folder in ("include", "src", "python/bindings", "python/cna"):
        for path in (ROOT / folder).rglob("*"):
            built = path.name == "_build.py" or {"__pycache__", "lib", "share"} & {*path.parts}
            if path.suffix in KINDS and not built:
                found.add(path.relative_to(ROOT).as_posix())
    return {p for p in found if not p.startswith("python/cna/include/")}


def lines() -> list[tuple[str, str]]:
    return re.findall(r"^- `([^`]+\.(?:hpp|cpp|py|j2))`: (.+)$", PAGE.read_text(), re.MULTILINE)


def test_every_file_has_one_sentence() -> None:
    named = [path for path, _ in lines()]
    assert sorted(named) == sorted(set(named))
    assert sources() - set(named) == set()
    assert set(named) - sources() == set()


def test_every_sentence_is_one_line_with_an_end() -> None:
    for path, sentence in lines():
        assert sentence.endswith(".") and len(sentence) > 9, path


def test_no_file_of_ours_is_longer_than_300_lines() -> None:
    long = {p: n for p in sources() if (n := len((ROOT / p).read_text().splitlines())) > 300}
    assert not long
