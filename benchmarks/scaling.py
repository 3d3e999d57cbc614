"""Discovery on 1, 2 and 4 processes: seconds, speed-up and whether the circuit stays the same.

    python benchmarks/scaling.py --docs docs/scale-results.md

Every process has one thread. Turns alternate (1, 2, 4, 1, 2, 4, ...), so that a slow minute of the
machine hits all of them. Loading is not timed; universal neurons are left out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def contrast_prompts(n: int) -> tuple[list[str], list[str]]:
    """n distinct prompts of either kind, made from the built-in task by polite variants."""
    import cna

    task = cna.tasks.load("capability-refusal")
    forms = ("{}", "Please: {}", "{} Be quick.", "Today, {}", "{} Thank you.", "A favour: {}")
    sides = []
    for prompts in (task.positive, task.negative):
        made = [form.format(p) for form in forms for p in prompts]
        made += [f"{p} ({i})" for i in range(n // len(made) + 1) for p in made]
        sides.append(made[:n])
    return sides[0], sides[1]


def worker(args: argparse.Namespace) -> int:
    import cna
    import torch
    from cna import distributed, ranks

    torch.set_num_threads(1)
    positive, negative = contrast_prompts(args.prompts)
    with ranks.group("scaling") as processes:
        model = ranks.load_in_turn(lambda: cna.load(args.model, cache_dir=args.cache_dir))
        cna.record(model, positive[:4], progress=False)  # warm
        processes.wait()
        start = time.perf_counter()
        circuit = distributed.discover_distributed(
            model, positive, negative, universal=None, chunk=args.chunk, progress=False
        )
        seconds = time.perf_counter() - start
    if circuit is not None:
        tokens = sum(map(len, model.tokenize(positive + negative)))
        neurons = [(n.layer, n.index, n.delta) for n in circuit]
        row = {"seconds": seconds, "model": model.model_id, "tokens": tokens, "neurons": neurons}
        Path(args.worker).write_text(json.dumps(row))
    return 0


def measure(args: argparse.Namespace, world: int, folder: Path) -> dict[str, Any]:
    out = folder / "row.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world), __file__, "--worker", str(out)]
    command += ["--model", args.model, "--prompts", str(args.prompts), "--chunk", str(args.chunk)]
    if args.cache_dir:
        command += ["--cache-dir", args.cache_dir]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, env=environment, stderr=subprocess.PIPE)
    return json.loads(out.read_text())


def report(args: argparse.Namespace, rows: dict[int, list[dict[str, Any]]]) -> str:
    import torch

    cores = len(os.sched_getaffinity(0))
    first = rows[min(rows)]
    base = statistics.median(r["seconds"] for r in first)
    table = ["| processes | seconds (range) | speed-up | per process | neurons equal | note |"]
    table.append("| ---: | ---: | ---: | ---: | :---: | --- |")
    worst = 0.0
    for world, turns in sorted(rows.items()):
        seconds = sorted(r["seconds"] for r in turns)
        median = statistics.median(seconds)
        expected = {(n[0], n[1]): n[2] for n in first[0]["neurons"]}
        equal = True
        for row in turns:
            got = {(n[0], n[1]): n[2] for n in row["neurons"]}
            equal &= set(got) == set(expected)
            worst = max([worst, *(abs(got[k] - expected[k]) for k in got if k in expected)])
        note = f"oversubscribed: {world} processes on {cores} cores" if world > cores else ""
        speed = base / median
        table.append(
            f"| {world} | {median:.2f} ({seconds[0]:.2f}-{seconds[-1]:.2f}) | {speed:.2f} | "
            f"{100 * speed / world:.0f} % | {'yes' if equal else 'NO'} | {note} |"
        )
    today = datetime.date.today().isoformat()
    return "\n".join(
        [
            "# Scaling over processes",
            "",
            "Written by `python benchmarks/scaling.py --docs docs/scale-results.md`. Discovery with",
            f"{first[0]['model']}: {args.prompts} positive and {args.prompts} negative prompts, "
            f"{first[0]['tokens']} tokens, chunks of {args.chunk}",
            f"prompts of each kind, one thread per process, {len(first)} turns, {today}, on "
            f"{platform.machine()} with {cores} cores,",
            f"torch {torch.__version__.split('+')[0]}. Loading is not timed. Largest difference of a "
            f"delta between any two runs: {worst:.1e}.",
            "",
            *table,
            "",
            *([args.note, ""] if args.note else []),
            "Processes share nothing but the moments (four float64 grids per chunk), which rank 0",
            "merges in the order of the chunks. Where processes outnumber cores, the row says so: it",
            "shows what the machine does, not what the method could.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--cache-dir", default=None)
    parser.add_argument("--prompts", type=int, default=256, help="of either kind")
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--docs", help="file to write")
    parser.add_argument("--note", default="", help="a sentence about the machine, for the docs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args)
    worlds = [int(n) for n in args.processes.split(",")]
    rows: dict[int, list[dict[str, Any]]] = {n: [] for n in worlds}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.turns):
            for world in worlds:
                row = measure(args, world, Path(folder))
                rows[world].append(row)
                print(f"turn {turn + 1}: {world} processes {row['seconds']:.2f} s", flush=True)
    text = report(args, rows)
    if args.docs:
        Path(args.docs).write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
