"""Measures cna and its peers, each in a process of its own, and writes the tables of the docs.

    python benchmarks/run.py --peers-python PEERS/bin/python

Contenders take turns (A B C, A B C, ...), so that a slow minute of the machine hits all of them;
tables give medians, the range over the turns, and ratios of turns to cna's own. A contender that
cannot be installed or fails stays in the table with its error. README.md says how to set it up.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measures
import show
from pages import fill
from processes import HERE, Bench, Failed, say

BENCHMARKS = {
    "discovery": ("Discovery", measures.discovery, show.show_discovery),
    "pairs": ("Minimal pairs", measures.pairs, show.show_discovery),
    "step": ("Steered step", measures.step, show.show_step),
    "generation": ("Generation", measures.generation, show.show_answers),
    "sweep": ("Sweep", measures.sweep, show.show_answers),
    "quiz": ("Quiz", measures.quiz, show.show_scores),
    "kl": ("KL", measures.kl, show.show_scores),
    "anchor": ("An outside anchor", measures.anchor, show.show_anchor),
    "memory": ("Memory", measures.memory, show.show_memory),
}
SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd")


def processor() -> str:
    """Name, clock as it is now, and those instruction sets that decide how fast products are."""
    name, clock, sets = platform.processor() or platform.machine(), "", ""
    with contextlib.suppress(OSError):
        for line in reversed(Path("/proc/cpuinfo").read_text().splitlines()):
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "cpu MHz":
                clock = f" at {float(value):.0f} MHz"
            elif key.strip() in ("flags", "Features"):
                here = set(value.split())
                sets = " (" + ", ".join(x for x in SETS if x in here) + ")"
    return name + clock + sets


def device_name(device: str) -> str:
    """The name of the GPU that was measured; empty for the processor."""
    if not device.startswith("cuda"):
        return ""
    import torch

    return torch.cuda.get_device_name(device)


def render(results: dict[str, Any], name: str) -> str:
    """A benchmark's part of the page: its table, and what it ran on."""
    r = results[name]
    m = r["machine"]
    found: dict[str, set[str]] = {}
    for entry in r["rows"].values():
        for package, number in entry.get("versions", {}).items():
            found.setdefault(package, set()).add(number)
    packages = ", ".join(f"{p} {'/'.join(sorted(v))}" for p, v in found.items())
    where = f"{m['device']} beside " if m.get("device") else ""
    return (
        f"{BENCHMARKS[name][2](r)}\n\n"
        f"<sub>{m['date']}; {r.get('model', m['model'])}; {where}{m['cpu']}, {m['threads']} threads of "
        f"{m['cores']} cores, load before {m['load']:.1f}; {packages}. "
        f"Medians; in brackets the least and the largest of the turns.</sub>"
    )


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--peers-python", help="Python of the peers' environment (requirements.txt)")
    p.add_argument("--before-python", help="Python that has the version of cna to compare with")
    p.add_argument("--llama-bench", help="llama.cpp's benchmark program, with --gguf")
    p.add_argument("--gguf", help="the default model, for --llama-bench")
    p.add_argument("--only", action="append", choices=list(BENCHMARKS), help="may be repeated")
    p.add_argument("--out", type=Path, default=HERE / "results")
    p.add_argument("--docs", type=Path, help="a page to put the tables into: docs/benchmarks.md")
    p.add_argument("--model", default="smollm2", help="or a local Hugging Face folder (Llama)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--device", default="cpu", help="cuda: every contender on the first GPU")
    p.add_argument("--turns", type=int, default=3)
    p.add_argument("--discovery-prompts", type=int, default=88)
    p.add_argument("--kl-prompts", type=int, default=24)
    p.add_argument("--quiz-questions", type=int, default=40)
    p.add_argument("--generation-prompts", type=int, default=32)
    p.add_argument("--sweep-prompts", type=int, default=24)
    p.add_argument("--new-tokens", type=int, default=40)
    p.add_argument("--one-by-one", type=int, default=8, help="answers measured one at a time")
    p.add_argument("--step-rows", type=int, default=32)
    p.add_argument("--step-tokens", type=int, default=24)
    p.add_argument("--step-pairs", type=int, default=15)
    p.add_argument("--step-neurons", type=int, nargs="+", default=[46, 4600])
    p.add_argument("--memory-prompts", type=int, nargs="+", default=[1000, 10000])
    return p.parse_args()


def main() -> None:
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="cna-benchmarks-") as folder,
        (args.out / "log.txt").open("wb") as log,
    ):
        say("preparing")
        load = os.getloadavg()[0]
        if load > 0.5:
            say(f"the machine is busy (load {load:.1f}): do not publish these numbers")
        try:
            bench = Bench(args, Path(folder), log)
        except Failed as error:
            sys.exit(f"run.py: the model could not be prepared: {error}; see {log.name}")
        for name in args.only or BENCHMARKS:
            say(name)
            try:
                found = BENCHMARKS[name][1](bench)
            except Failed as error:
                sys.exit(f"run.py: {name}: cna itself failed: {error}; see {log.name}")
            found["machine"] = {
                "date": datetime.date.today().isoformat(),
                "model": f"{bench.inputs['model']}, float32",
                "cpu": processor(),
                "device": device_name(args.device),
                "cores": os.cpu_count(),
                "threads": args.threads,
                "load": load,
            }
            results[name] = found
            file.write_text(json.dumps(results, indent=1) + "\n")
    ordered = {name: results[name] for name in BENCHMARKS if name in results}
    text = "\n\n".join(f"## {BENCHMARKS[n][0]}\n\n{render(ordered, n)}" for n in ordered)
    (args.out / "benchmarks.md").write_text(text + "\n", encoding="utf-8")
    if args.docs:
        fill(args.docs, {name: render(ordered, name) for name in ordered})
    print(text)
    say(f"took {(time.monotonic() - began) / 60:.1f} minutes; wrote {args.out}")


if __name__ == "__main__":
    main()
