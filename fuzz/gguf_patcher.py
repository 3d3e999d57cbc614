"""Feeds arbitrary bytes as a GGUF file to `cna.convert`: a whole file comes out, or one clear line.

    python fuzz/gguf_patcher.py [-max_total_time=SECONDS] [FOLDER_OR_FILE...]

Guided by coverage where atheris (libFuzzer for Python) is installed, and then with the options of
libFuzzer; else random. A file that is named alone is run once. A finding ends the run with an error.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(["cna.ship", "gguf"]) if atheris else contextlib.nullcontext():
    import gguf_cases

WORK = Path.cwd() / "gguf_work"
ROOM = 1 << 30  # bytes that one file may take on top of what the imports took


def run(data: bytes) -> None:
    gguf_cases.check(data, WORK)


def run_guided(data: bytes) -> None:
    try:
        run(data)
    except BaseException:
        traceback.print_exc()
        os.abort()  # libFuzzer keeps the bytes and ends at once


def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.5:
        return gguf_cases.mutate(data, rng)[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def too_slow(*_: object) -> None:
    raise TimeoutError("one file takes too long")


def run_at_random(arguments: list[str]) -> None:
    """What there is without atheris."""
    options = dict(a[1:].split("=", 1) for a in arguments if a.startswith("-"))
    paths = [Path(a) for a in arguments if not a.startswith("-")]
    files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    cases = [f.read_bytes() for f in files]
    for data in cases:
        run(data)
    signal.signal(signal.SIGALRM, too_slow)
    rng, runs, start = random.Random(20), 0, time.monotonic()
    while time.monotonic() - start < float(options.get("max_total_time", 0)):
        data = gguf_cases.mutate(rng.choice(cases), rng)
        signal.alarm(int(options.get("timeout", 30)))
        try:
            run(data)
        except BaseException:
            Path("crash-gguf").write_bytes(data)
            raise
        runs += 1
    print(f"Done {runs} runs in {time.monotonic() - start:.0f} second(s)")


def main() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    arguments = sys.argv[1:]
    if all(a.startswith("-") or Path(a).is_dir() for a in arguments):  # no single file to replay
        seeds = Path.cwd() / "gguf_seeds"
        seeds.mkdir(exist_ok=True)
        for name, data in {**gguf_cases.valid_seeds(), **gguf_cases.broken_seeds()}.items():
            (seeds / name).write_bytes(data)
        arguments.append(str(seeds))
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, hard))
    if atheris is None:
        run_at_random(arguments)
        return
    atheris.Setup([sys.argv[0], *arguments], run_guided, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
