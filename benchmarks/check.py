"""Measures cna against tuned hooks again and compares with the committed tables: make bench-check.

A ratio, the time of the hooks over that of cna in one run, may be below the committed one by a
tolerance: machines differ in how fast products and memory are to one another. Exits with 1 where one
is lower.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from processes import HERE
from show import LABELS

RATIOS = ("discovery", "pairs", "generation", "sweep", "quiz", "kl")
HOOKS = (LABELS["hooks"], "`generate` with hooks, batched", "hooks, batches of 32")


def committed(page: str, name: str) -> float | None:
    """The hooks' median "time of cna" in a benchmark's table of the page."""
    part = page.split(f"<!-- {name}:begin -->")[-1].split(f"<!-- {name}:end -->")[0]
    for line in part.splitlines():
        if line.startswith("| ") and line[2:].startswith(HOOKS):
            found = re.search(r"\| ([\d.]+)× ", line)
            return float(found[1]) if found else None
    return None


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--tolerance", type=float, default=0.15, help="a share of the committed ratio")
    p.add_argument("--only", action="append", choices=RATIOS, help="may be repeated")
    p.add_argument("--turns", type=int, default=3, help="1: quick, and less certain")
    p.add_argument("--page", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    p.add_argument("--out", type=Path, default=HERE.parent / ".build" / "bench-check")
    args = p.parse_args()
    names = args.only or RATIOS
    only = [word for name in names for word in ("--only", name)]
    how = ["--out", str(args.out), "--turns", str(args.turns)]
    run = [sys.executable, str(HERE / "run.py"), *how, *only]
    if subprocess.run(run, stdout=subprocess.DEVNULL).returncode:
        return 1
    results = json.loads((args.out / "results.json").read_text())
    page = args.page.read_text(encoding="utf-8")
    low = 0
    for name in names:
        before = committed(page, name)
        now = results[name]["rows"]["hooks"]["times_cna"]["median"]
        if before is None:
            print(f"{name}: {now:.2f} times as fast as tuned hooks; the page has no ratio")
            continue
        slower = now < (1 - args.tolerance) * before
        low += slower
        print(f"{name}: {now:.2f} times as fast as tuned hooks, {before:.2f} on the page", end="")
        print(f": more than {args.tolerance:.0%} lower" if slower else "")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
