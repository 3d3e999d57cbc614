"""The three hosts on one job: discovery and decoding steps, steered, on the default model.

    python benchmarks/hosts.py --docs docs/hosts.md

Each host runs in a process of its own, turn by turn. Loading and compiling are timed apart.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from pages import fill

HOSTS = ("torchscript", "aoti", "live")


def open_host(host: str, model: str, cache_dir: str | None) -> Any:
    import cna
    from cna.loading import load_hf

    if host == "live":
        return cna.live(*load_hf(model))
    return cna.load(model, format=host, cache_dir=cache_dir)


def worker(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    import cna

    model = open_host(args.worker, args.model, args.cache_dir)
    row: dict[str, Any] = {"load": time.perf_counter() - start}
    task = cna.tasks.load("capability-refusal")
    options: dict[str, Any] = {"universal": None, "progress": False}
    cna.discover(model, task.positive[:8], task.negative[:8], **options)  # warm
    start = time.perf_counter()
    circuit = cna.discover(model, task.positive, task.negative, **options)
    row["discover"] = time.perf_counter() - start
    row["neurons"] = [[n.layer, n.index] for n in circuit]
    ids = model.tokenize(task.evaluation[: args.rows])
    ticks: list[float] = []
    answers = model.core.generate(
        ids,
        max_new_tokens=args.new,
        ignore_eos=True,
        intervention=cna.Intervention.scale(circuit, [0.0]),
        progress=lambda done, total: ticks.append(time.perf_counter()),
    )
    row["step"] = statistics.median(b - a for a, b in pairwise(ticks[2:]))
    row["answers"] = answers
    print(json.dumps(row))
    return 0


def measure(args: argparse.Namespace, host: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", host, "--model", args.model]
    command += ["--rows", str(args.rows), "--new", str(args.new), "--cache-dir", args.cache_dir]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(args: argparse.Namespace, rows: dict[str, list[dict[str, Any]]], made: dict) -> str:
    import torch

    def spread(host: str, key: str, scale: float, digits: int) -> str:
        values = sorted(scale * r[key] for r in rows[host])
        middle = statistics.median(values)
        return f"{middle:.{digits}f} ({values[0]:.{digits}f}–{values[-1]:.{digits}f})"

    first = rows[HOSTS[0]][0]
    lines = [
        "| host | making the export, s | opening, s | discovery, s | decoding step, ms | neurons |"
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for host in HOSTS:
        shared = sum(n in first["neurons"] for n in rows[host][0]["neurons"])
        lines.append(
            f"| {host} | {made[host]} | {spread(host, 'load', 1, 1)} | "
            f"{spread(host, 'discover', 1, 2)} | {spread(host, 'step', 1000, 1)} | "
            f"{shared} of {len(first['neurons'])} |"
        )
    same = [
        sum(a == b for a, b in zip(rows[host][0]["answers"], first["answers"], strict=True))
        for host in HOSTS
    ]
    agree = ", ".join(f"{host} {n} of {args.rows}" for host, n in zip(HOSTS, same, strict=True))
    cores = len(os.sched_getaffinity(0))
    lines += [
        "",
        f"Answers of {args.new} tokens that equal those of the first host: {agree}.",
        "",
        f"<sub>`python benchmarks/hosts.py --docs docs/hosts.md`, {datetime.date.today().isoformat()}; "
        f"{args.model}, float32, {cores} cores, torch {torch.__version__}; {args.rows} rows decode; "
        f"medians of {args.turns} turns, in brackets the least and the largest. Opening includes "
        "Python's imports.</sub>",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cache-dir", default=None)
    parser.add_argument("--docs", help="file whose marked part to write")
    parser.add_argument("--worker", choices=HOSTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    rows: dict[str, list[dict[str, Any]]] = {host: [] for host in HOSTS}
    made = dict.fromkeys(HOSTS, "none")
    with tempfile.TemporaryDirectory() as folder:
        args.cache_dir = args.cache_dir or folder
        from cna.loading import export_cached

        for host in HOSTS[:2]:
            start = time.perf_counter()
            export_cached(args.model, format=host, cache_dir=args.cache_dir)
            made[host] = f"{time.perf_counter() - start:.0f}"
        for turn in range(args.turns):
            for host in HOSTS if turn % 2 == 0 else HOSTS[::-1]:
                row = measure(args, host)
                rows[host].append(row)
                print(
                    f"turn {turn + 1}: {host} discovery {row['discover']:.2f} s, step "
                    f"{1000 * row['step']:.1f} ms",
                    flush=True,
                )
    text = table(args, rows, made)
    if args.docs:
        fill(Path(args.docs), {"hosts": text})
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
