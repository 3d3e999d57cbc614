"""Starts one script in several processes, as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def environment(**more: str) -> dict[str, str]:
    """This process's environment with one thread a process: sums in the same order everywhere."""
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def run_script(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A short script in a process of its own, its warnings ignored."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_ranks(
    world: int, script: Path, *arguments: str, timeout: float, **more: str
) -> list[subprocess.CompletedProcess[str]]:
    """What each rank ended with; as under torchrun, the first failure ends the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(world), **more)
    running = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    finished = []
    try:
        for process in running:
            out, err = process.communicate(timeout=timeout)
            finished.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
            if process.returncode != 0:
                for other in running:
                    other.kill()
    finally:
        for process in running:
            process.kill()
            process.wait()
    return finished


def torchrun(
    world: int, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """torchrun itself, on this machine alone."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(world), *arguments),
        ],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
