"""Discovery on many processes, simulated: what shapes, rates and links say of a model too large to run.

    python benchmarks/scale_plan.py --docs docs/scale.md

A simulation of `cna.distributed`: chunks are dealt in turns, every process computes its own and sends
four float64 grids to rank 0, which takes and merges them in the order of the chunks. Only the merge is
measured, here, on grids of the planned size. Everything else is an assumption that the table names.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import textwrap
import time
from pathlib import Path

from pages import fill


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the simulation takes for granted."""

    layers: int = 80
    width: int = 28672
    parameters: float = 70.6e9
    prompts: int = 2000
    tokens: float = 40.0  # of a prompt
    chunk: int = 64  # prompts of each kind
    flops: float = 0.4 * 989e12  # of one process: 40 % of an H100's dense bfloat16 peak
    link: float = 25e9 / 8  # bytes a second into rank 0

    @property
    def message(self) -> int:
        """Bytes that a chunk sends: mean and squared deviations of both sets."""
        return 4 * self.layers * self.width * 8

    @property
    def chunk_seconds(self) -> float:
        return 2 * self.chunk * self.tokens * 2 * self.parameters / self.flops


def simulate(chunks: int, world: int, compute: float, transfer: float, merge: float) -> float:
    """Seconds until rank 0 has merged the last chunk.

    A process starts its next chunk when its last message is under way to rank 0; rank 0 computes its own
    chunk of a turn, then takes the others' one after the other.
    """
    free = [0.0] * world  # when each process may compute again
    for start in range(0, chunks, world):
        turn = range(min(world, chunks - start))
        done = [free[rank] + compute for rank in turn]
        now = done[0] + merge
        for rank in turn[1:]:
            now = max(now, done[rank]) + transfer
            free[rank] = now  # the next message waits for this one
            now += merge
        free[0] = now
    return free[0]


def merge_seconds(layers: int, width: int, turns: int = 5) -> float:
    """Measured: rank 0 takes one chunk's moments of both sets into its own."""
    import torch
    from cna import _core

    def side(count: int) -> dict[str, object]:
        grids = torch.rand(2, layers, width, dtype=torch.float64)
        return {"count": count, "mean": grids[0], "m2": grids[1]}

    sides = [(side(64), side(64)) for _ in range(2)]
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        for a, b in sides:
            _core.merge_moments(a, b)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def table(plan: Plan, merge: float, worlds: list[int]) -> str:
    chunks = -(-plan.prompts // (2 * plan.chunk))
    transfer = plan.message / plan.link
    billions, tera = plan.parameters / 1e9, plan.flops / 1e12
    text = (
        f"**Simulated**, not measured: {plan.layers} × {plan.width} neurons, {billions:g}e9 parameters, "
        f"{plan.prompts} prompts of {plan.tokens:g} tokens in {chunks} chunks. Assumed: {tera:.0f} "
        "TFLOP/s a process (40 % of an H100's dense bfloat16 peak), "
        f"{plan.link / 1e9:.2f} GB/s into rank 0. Follows: {plan.chunk_seconds:.2f} s to compute a "
        f"chunk, {plan.message / 1e6:.0f} MB and {1000 * transfer:.0f} ms to send one. Measured here "
        f"({platform.machine()}, CPU): {1000 * merge:.0f} ms to merge one. A process is one copy of the "
        "model, on as many GPUs as it needs; with `device_map` these compute one after the other, so "
        "they count as one. Loading is not counted."
    )
    lines = [
        *textwrap.wrap(text, 110),
        "",
        "| processes | seconds (simulated) | speed-up | per process |",
        "| ---: | ---: | ---: | ---: |",
    ]
    alone = simulate(chunks, 1, plan.chunk_seconds, transfer, merge)
    for world in worlds:
        seconds = simulate(chunks, world, plan.chunk_seconds, transfer, merge)
        speed = alone / seconds
        lines.append(f"| {world} | {seconds:.1f} | {speed:.2f} | {100 * speed / world:.0f} % |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=Plan.prompts)
    parser.add_argument("--processes", default="1,2,4,8,16")
    parser.add_argument("--docs", help="file whose marked part to write")
    args = parser.parse_args()
    plan = Plan(prompts=args.prompts)
    merge = merge_seconds(plan.layers, plan.width)
    text = table(plan, merge, [int(n) for n in args.processes.split(",")])
    if args.docs:
        fill(Path(args.docs), {"plan": text})
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
