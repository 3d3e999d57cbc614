"""Puts the table that `make demo` wrote into README.md, between its markers."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    table = (ROOT / "demo-out/table.md").read_text("utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    block = f"<!-- demo:begin -->\n{table}<!-- demo:end -->"
    new = re.sub(r"<!-- demo:begin -->\n.*?<!-- demo:end -->", lambda _: block, text, flags=re.S)
    readme.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
