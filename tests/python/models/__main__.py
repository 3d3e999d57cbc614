"""`make models`: the survey of all types, into the table that ships and the page of the documentation.

    python -m models [TYPE ...] [--into FOLDER]      each type in a process of its own

A finished type is kept in FOLDER, so that a stopped survey of the same library goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cna
import torch
import transformers
from cna.base.files import file_sha256, write_whole
from cna.hosts.capabilities import COLUMNS, TABLE

from . import small, survey

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
SOURCE = Path(__file__).parents[3] / "python/cna/hosts" / TABLE.name
FORKING = threading.Lock()
PATIENCE = 600  # seconds for one type


def one(kind: str, out: Path) -> None:
    """Surveys a type in this process."""
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = survey.row_of(kind, Path(folder))
    out.write_text(json.dumps(row), encoding="utf-8")


def apart(kind: str, rows: Path) -> dict[str, str]:
    """The row of a type, from a process that may crash or hang."""
    out = rows / f"{kind}.json"
    if not out.exists():
        child = multiprocessing.get_context("fork").Process(target=one, args=(kind, out))
        with FORKING:  # one at a time: libraries watch what a fork inherits
            child.start()
        child.join(PATIENCE)
        why = f"exit code {child.exitcode}" if child.exitcode is not None else "no end"
        if child.is_alive():
            child.kill()
        if not out.exists():
            row = dict.fromkeys(COLUMNS, "")
            return row | {"type": kind, "live": "failed", "live_note": why}
    row = json.loads(out.read_text(encoding="utf-8"))
    print(*(row[c] for c in COLUMNS), sep=" | ", flush=True)
    return row


def library() -> str:
    """What the rows depend on, in twelve hexadecimal digits: cna as installed, and the survey."""
    whole = hashlib.sha256()
    for folder in (Path(cna.__file__).parent, Path(__file__).parent):
        for file in sorted(f for end in ("*.py", "*.so*") for f in folder.rglob(end)):
            whole.update(file_sha256(file).encode())
    return whole.hexdigest()[:12]


def write(rows: list[dict[str, str]], versions: str) -> None:
    table = io.StringIO(f"# {versions}\n")
    table.seek(0, io.SEEK_END)
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(SOURCE, lambda p: p.write_text(table.getvalue(), encoding="utf-8"))
    write_whole(PAGE, lambda p: p.write_text(page(rows, versions), encoding="utf-8"))


def page(rows: list[dict[str, str]], versions: str) -> str:
    """The page: numbers, then what is exact, refused and not built."""

    def count(host: str, state: str) -> int:
        return sum(row[host] == state for row in rows)

    def names(chosen: list[dict[str, str]]) -> str:
        return ", ".join(row["type"] for row in chosen) or "none"

    exact = [r for r in rows if r["live"] == "exact"]
    both = [r for r in exact if r["export"] == "exact"]
    noted = [r for r in exact if r["live_note"].replace("experts", "").strip(", ")]
    lines = [
        "# Model types",
        "",
        f"Each of the {len(rows)} causal language model types of transformers, built small with random",
        "weights and held against plain modules: recordings at all three sites, steering at 1 and at 0,",
        "logits, and greedy answers of four tokens, for ragged prompts that share a head and reach",
        f"beyond the window ({versions}, CPU, float32). `make models` measures it, `cna models` prints",
        "it, `cna models TYPE` says what each host says of a type.",
        "",
        "| | live | behind a PEFT adapter | exported |",
        "| --- | ---: | ---: | ---: |",
    ]
    for state in ("exact", "refused", "wrong", "failed", "not built"):
        lines.append(
            f"| {state} | {count('live', state)} | {count('peft', state)} | {count('export', state)} |"
        )
    lines += ["", "## Exact live and exported", "", names(both)]
    lines += ["", "## Exact live", "", names([r for r in exact if r["export"] != "exact"])]
    mixtures = [r for r in exact if "experts" in r["live_note"]]
    traced = [r for r in mixtures if r["export"] == "exact"]
    apart = [r for r in mixtures if r["export"] != "exact"]
    lines += ["", "## Mixtures of experts", "", f"Live and exported: {names(traced)}."]
    lines += ["", f"Live: {names(apart)}."]
    lines += ["", "## With a limit", "", "| type | live |", "| --- | --- |"]
    lines += [f"| {r['type']} | {_cell(r['live_note'])} |" for r in noted]
    lines += ["", "## Not exact", "", "| type | live | what it says |", "| --- | --- | --- |"]
    lines += [
        f"| {r['type']} | {r['live']} | {_cell(r['live_note'])} |"
        for r in rows
        if r["live"] not in ("exact", "not built")
    ]
    lines += ["", "## Exact live, not exported", "", "| type | what it says |", "| --- | --- |"]
    lines += [
        f"| {r['type']} | {_cell(r['export_note'])} |" for r in exact if r["export"] != "exact"
    ]
    lines += ["", "## Not built", "", "The survey made no small model that runs plainly.", ""]
    lines += ["| type | why |", "| --- | --- |"]
    lines += [
        f"| {r['type']} | {_cell(r['live_note'])} |" for r in rows if r["live"] == "not built"
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def main() -> int:
    parser = argparse.ArgumentParser(prog="models")
    parser.add_argument("types", nargs="*")
    parser.add_argument("--into", type=Path, default=Path(".build/models"))
    parser.add_argument("--jobs", type=int, default=2, help="types at once")
    args = parser.parse_args()
    rows = args.into / library()
    rows.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda kind: apart(kind, rows), args.types or small.types()))
    if not args.types:
        versions = (
            f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
        )
        write(found, versions)
    return int(any(row["live"] in ("wrong", "failed") for row in found))


if __name__ == "__main__":
    sys.exit(main())
