"""`cna report`: writes the page of a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "Write the HTML page of a run folder."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="that a sweep or the demo wrote")


def run(args: argparse.Namespace) -> int:
    from ..show.report import write_report

    print(f"wrote {write_report(Path(args.folder))}")
    return 0
