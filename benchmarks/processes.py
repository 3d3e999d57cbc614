"""Contenders in processes of their own, taking turns."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT = 900.0  # seconds for one reply
PEERS = ("nnsight", "pyvene", "steering-vectors")


class Failed(Exception):
    """What a contender said when it could not do its job."""


class Worker:
    """A contender's process; see worker.py."""

    def __init__(
        self, name: str, python: str | None, folder: Path, threads: int, device: str, log: Any
    ) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self.error: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        if python is None:
            self.error = "no environment; see benchmarks/README.md"
            return
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {f"{x}_NUM_THREADS": str(threads) for x in ("OMP", "MKL", "OPENBLAS")}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}
        try:
            self.process = subprocess.Popen(
                [python, str(HERE / "worker.py"), name, str(folder), str(threads), device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env=environment,
            )
        except OSError as error:
            self.error = str(error)

    def wait(self) -> None:
        """Waits until the model is loaded."""
        try:
            if self.process is not None:
                self.versions = self._read()["versions"]
        except (OSError, Failed) as error:
            self.error = str(error)
            self.close()

    def _read(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        line, end = b"", time.monotonic() + TIMEOUT
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failed(f"no answer within {TIMEOUT:.0f} s")
            part = os.read(self.process.stdout.fileno(), 1 << 20)
            if not part:
                raise Failed(f"its process ended (status {self.process.wait()})")
            line += part
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise Failed(reply["error"])
        return reply

    def do(self, what: str, **job: Any) -> Any:
        """The job's result; Failed with what went wrong."""
        if self.process is None or self.process.stdin is None or self.error:
            raise Failed(self.error or "not running")
        try:
            self.process.stdin.write(json.dumps({"do": what, **job}).encode() + b"\n")
            return self._read()["result"]
        except (OSError, Failed) as error:
            self.error = str(error)
            self.close()
            raise Failed(self.error) from None

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()  # type: ignore[union-attr]
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


class Bench:
    """Settings, the folder with model and prompts, and how to start workers."""

    def __init__(self, args: argparse.Namespace, folder: Path, log: Any) -> None:
        self.args, self.folder, self.log = args, folder, log
        worker = self.start("prepare")
        worker.wait()
        try:
            sizes = {
                "discovery": args.discovery_prompts,
                "kl": args.kl_prompts,
                "quiz": args.quiz_questions,
            }
            self.inputs = worker.do("prepare", name=args.model, sizes=sizes)
        finally:
            worker.close()

    def start(self, name: str) -> Worker:
        peer = name.removesuffix("-tuned") in PEERS
        python = self.args.peers_python if peer else sys.executable
        if name == "before":
            python = self.args.before_python
        return Worker(name, python, self.folder, self.args.threads, self.args.device, self.log)

    @contextlib.contextmanager
    def workers(self, names: list[str]) -> Any:
        """Starts one process for each name, loads the models, and ends them afterwards."""
        found: dict[str, Worker] = {}
        try:
            say(f"  starting {', '.join(names)}")
            for name in names:
                found[name] = self.start(name)
            for worker in found.values():
                worker.wait()
                if worker.error:
                    say(f"  {worker.name} failed: {worker.error}")
            yield found
        finally:
            for worker in found.values():
                worker.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def take_turns(workers: dict[str, Worker], turns: int, job: Any) -> dict[str, list[Any]]:
    """job(worker) of every worker, `turns` times around, in changing order; errors end a worker."""
    found: dict[str, list[Any]] = {name: [] for name in workers}
    for turn in range(turns):
        for name in list(workers) if turn % 2 == 0 else list(reversed(workers)):
            if workers[name].error:
                continue
            time.sleep(0.3)  # threads of the one before have gone to sleep
            try:
                found[name].append(job(workers[name]))
                say(f"  turn {turn + 1}: {name} {found[name][-1]['seconds']:.2f} s")
            except Failed as error:
                say(f"  turn {turn + 1}: {name} failed: {error}")
    return found
