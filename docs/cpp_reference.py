"""MkDocs hook: turns the `///` comments of include/cna into the page reference/cpp.md.

Needs nothing but the headers. Also mends links of top-level pages that leave the docs folder, and
shows the repository's CONTRIBUTING.md as a page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = ROOT / "include"
OPENERS = re.compile(r"^(class|struct|enum)\b[^;]*\{\s*$|^namespace\b.*\{\s*$")


def headers() -> list[Path]:
    """The public headers, the core first."""
    core = sorted((INCLUDE / "cna").glob("*.hpp"))
    return core + sorted((INCLUDE / "cna" / "torch").glob("*.hpp"))


def _comment(line: str) -> str:
    return line.strip().removeprefix("///").removeprefix(" ").rstrip()


def _prose(lines: list[str]) -> str:
    """Comment lines as Markdown: indented ones are formulas."""
    out: list[str] = []
    inside = False
    for line in lines:
        formula = line.startswith("  ") and bool(line.strip())
        if formula and not inside:
            out += ["", "```text"]
        if inside and not formula:
            out += ["```", ""]
        inside = formula
        out.append(line if formula else re.sub(r"@(throws|return|param)\b", r"**\1**", line))
    if inside:
        out.append("```")
    return "\n".join(out).strip()


def _declaration(lines: list[str], at: int) -> str:
    """The declaration that starts at line `at`, without its body."""
    text = ""
    for line in lines[at : at + 12]:
        text += line.rstrip() + "\n"
        depth = text.count("(") - text.count(")")
        if depth > 0 or (text.strip().startswith("template") and text.count("\n") == 1):
            continue
        if re.search(r"[;{}]\s*(//.*)?$", line):
            break
    text = re.sub(r"\s*(//.*)$", "", text.strip(), flags=re.M)
    text = re.sub(r"\s*\{[^{};]*;?\s*\}?$", ";", text) if text.endswith(("{", "}")) else text
    out: list[str] = []
    for number, line in enumerate(text.strip().splitlines()):
        first = number == 0 or (out[-1].startswith("template <") and number == 1)
        out.append(line.strip() if first else "    " + line.strip())
    return "\n".join(out)


def _members(lines: list[str], at: int) -> list[tuple[str, str]]:
    """(name, comment) of fields with a trailing ///< of the struct that opens at line `at`."""
    found = []
    for line in lines[at + 1 :]:
        if line.startswith("};"):
            break
        if match := re.match(r"\s+(.+?);\s*///<\s*(.*)$", line):
            found.append((match[1], match[2]))
    return found


def entry(path: Path) -> str:
    """One header as Markdown: what it is, then each documented declaration."""
    source = path.read_text(encoding="utf-8").splitlines()
    public = next(
        (i for i, x in enumerate(source) if x.startswith("namespace detail")), len(source)
    )
    head = []
    for line in source:
        if not line.startswith("///"):
            break
        head.append(_comment(line))
    out = [f"## `{path.relative_to(INCLUDE).as_posix()}`", "", _prose(head), ""]
    at = len(head)
    while at < public:
        if not source[at].lstrip().startswith("///"):
            at += 1
            continue
        comment = []
        while source[at].lstrip().startswith("///"):
            comment.append(_comment(source[at]))
            at += 1
        declaration = _declaration(source, at)
        out += ["```cpp", declaration, "```", ""]
        out += [_prose(comment), ""]
        out += [f"- `{name}`: {text}" for name, text in _members(source, at)] + [""]
    return "\n".join(out)


def reference() -> str:
    """The whole page."""
    intro = (
        "# C++ reference\n\n"
        "`cna::cna` is the core: Eigen, fmt and the standard library. `cna::torch` adds models, "
        "recording and steering. The text is that of the headers.\n"
    )
    return "\n".join([intro, *(entry(path) for path in headers())])


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/cpp.md", content=reference()))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"`\1`", markdown)
