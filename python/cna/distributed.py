"""Discovery and sweeps over several processes: `torchrun --nproc-per-node N -m cna discover ...`.

Prompts are cut into chunks that do not depend on the number of processes; chunks are dealt round-robin,
and rank 0 merges their moments in the chunks' order. So 1, 2 and 4 processes give the same circuit.
With a `resume` folder that all processes share, every finished chunk is kept there, and a run that
was killed goes on from them, with as many processes as you like.

The variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) say who takes part; without
them everything runs in this process.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from . import _core
from .answers import AnswerLog, answer_jobs
from .discovery import UniversalNeurons, _hash, check_size, with_prompt_provenance
from .model import Model, Prompts
from .progress import bar
from .prompts import universal_prompts
from .runs import write_whole
from .shard import require_all_ranks
from .sweep import SweepResult, plan, sweep
from .tasks import Task

TIMEOUT = 1800.0  # seconds without a sign of another rank; $CNA_DISTRIBUTED_TIMEOUT changes it
_AGAIN = "start again with the same folder to go on from what is finished"


def is_distributed() -> bool:
    """Whether this process was started by torchrun or the like."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class Group:
    """The processes of a run. Every failure names the rank that is missing."""

    def __init__(self, rank: int, world: int, function: str) -> None:
        self.rank = rank
        self.world = world
        self.function = function
        self._pending: list[tuple[Any, Tensor]] = []

    def _lost(self, rank: int, error: Exception) -> RuntimeError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return RuntimeError(
            f"{self.function}: expected rank {rank} of {self.world} to answer, got no sign of it (it "
            f"was stopped, or its machine was lost: {reason}); {_AGAIN}"
        )

    def send(self, values: Tensor) -> None:
        """Sends to rank 0, which is waited for only before the next call."""
        self.flush()
        try:
            self._pending = [(dist.isend(values, 0), values)]
        except RuntimeError as error:
            raise self._lost(0, error) from None

    def flush(self) -> None:
        """Waits until rank 0 has everything that was sent."""
        try:
            for work, _ in self._pending:
                work.wait()
        except RuntimeError as error:
            raise self._lost(0, error) from None
        self._pending = []

    def receive(self, rank: int, like: Tensor) -> Tensor:
        """What `rank` sent, a tensor of the shape and type of `like`."""
        out = torch.empty_like(like)
        try:
            dist.recv(out, rank)
        except RuntimeError as error:
            raise self._lost(rank, error) from None
        return out

    def share(self, value: Any) -> Any:
        """Rank 0's value (JSON) on every rank."""
        if self.world == 1:
            return value
        if self.rank != 0:
            size = int(self.receive(0, torch.zeros(1, dtype=torch.int64))[0])
            text = self.receive(0, torch.zeros(size, dtype=torch.uint8))
            return json.loads(text.numpy().tobytes())
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        for rank in range(1, self.world):
            try:
                dist.send(torch.tensor([len(data)]), rank)
                dist.send(data, rank)
            except RuntimeError as error:
                raise self._lost(rank, error) from None
        return value

    def wait(self) -> None:
        """Returns when every rank has called it."""
        sign = torch.zeros(1, dtype=torch.int64)
        if self.rank == 0:
            for rank in range(1, self.world):
                self.receive(rank, sign)
        else:
            self.send(sign)
            self.flush()
        self.share(0)


@contextlib.contextmanager
def group(function: str, timeout: float | None = None) -> Iterator[Group]:
    """Joins the processes of this run; leaves them at the end if it was first to join.

    Raises:
        RuntimeError: the processes do not find each other in time.
    """
    if not is_distributed() and not dist.is_initialized():
        yield Group(0, 1, function)
        return
    first = not dist.is_initialized()
    if first:
        seconds = float(os.environ.get("CNA_DISTRIBUTED_TIMEOUT", timeout or TIMEOUT))
        try:
            dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=seconds))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RuntimeError(
                f"{function}: expected {os.environ.get('WORLD_SIZE')} processes that find each other, "
                f"got: {reason}; start them with torchrun"
            ) from None
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), function)
    finally:
        if first:
            dist.destroy_process_group()


def load_in_turn(load: Callable[[], Model], function: str = "load") -> Model:
    """Loads on the first rank of each machine, then on the others: an export is made only once."""
    with group(function) as processes:
        first = os.environ.get("LOCAL_RANK", str(processes.rank)) == "0"
        model = load() if first else None
        processes.wait()
        return load() if model is None else model


def device_of_rank(device: str) -> str:
    """ "cuda" becomes the CUDA device of this rank on its machine."""
    if device == "cuda" and is_distributed():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


class Shards:
    """Finished chunks as .npz files in a folder, each written whole or not at all.

    `fingerprint` says what the numbers depend on; files of another run are not looked at.
    """

    def __init__(self, folder: Path | None, kind: str, fingerprint: str, n: int) -> None:
        self.folder, self.kind, self.fingerprint, self.n = folder, kind, fingerprint, n

    def path(self, chunk: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.kind}-{self.fingerprint}-{chunk:05d}-of-{self.n:05d}.npz"

    def save(self, chunk: int, values: Tensor) -> None:
        """Keeps one chunk; RuntimeError if it cannot be written."""
        if self.folder is None:
            return

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, fingerprint=self.fingerprint, chunk=chunk, values=values.numpy())
                file.flush()
                os.fsync(file.fileno())

        write_whole(self.path(chunk), write)

    def load(self, chunk: int, size: int) -> Tensor | None:
        """One chunk, or None where there is no whole file of this run."""
        if self.folder is None or not self.path(chunk).exists():
            return None
        try:
            data = io.BytesIO(self.path(chunk).read_bytes())
            with np.load(data, allow_pickle=False) as file:
                values = torch.from_numpy(file["values"])
                if str(file["fingerprint"]) != self.fingerprint or int(file["chunk"]) != chunk:
                    return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return values if values.shape == (size,) and values.dtype == torch.float64 else None


def _run_shards(
    processes: Group,
    shards: Shards,
    size: int,
    compute: Callable[[int], Tensor],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """Computes what is missing; yields every chunk [size] in order on rank 0, nothing elsewhere."""
    missing: list[int] = []
    if processes.rank == 0:
        missing = [i for i in range(shards.n) if shards.load(i, size) is None]
    missing = processes.share(missing)
    rank, world = processes.rank, processes.world
    reached = 0

    def kept(until: int) -> Iterator[Tensor]:
        for i in range(reached, until):
            values = shards.load(i, size)
            if values is None:
                raise RuntimeError(
                    f"{processes.function}: expected '{shards.path(i)}' as it was, got it changed "
                    "or deleted; start again"
                )
            yield values

    for start in range(0, len(missing), world):
        turn = missing[start : start + world]
        mine = torch.empty(0)
        if rank < len(turn):
            mine = compute(turn[rank])
            shards.save(turn[rank], mine)
            if rank != 0:
                processes.send(mine)
        if rank == 0:
            for owner, chunk in enumerate(turn):
                yield from kept(chunk)
                yield mine if owner == 0 else processes.receive(owner, mine)
                reached = chunk + 1
            if progress:
                progress(start + len(turn), len(missing))
    if rank == 0:
        yield from kept(shards.n)
    processes.flush()


def split(n: int, parts: int) -> list[slice]:
    """Consecutive parts of n items whose sizes differ by at most one."""
    edges = [n * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _pack(sides: Sequence[dict[str, Any]]) -> Tensor:
    counts = torch.tensor([side["count"] for side in sides], dtype=torch.float64)
    return torch.cat([counts, *(side[k].reshape(-1) for side in sides for k in ("mean", "m2"))])


def _unpack(values: Tensor, shape: tuple[int, int]) -> list[dict[str, Any]]:
    grids = values[2:].reshape(2, 2, *shape)
    return [
        {"count": int(values[side]), "mean": grids[side, 0], "m2": grids[side, 1]}
        for side in range(2)
    ]


def _identity(model: Model, *parts: Any) -> str:
    what = [model.core.weights_hash, model.model_id, str(model.dtype), *parts]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def contrast_distributed(
    model: Model,
    positive: Sequence[Sequence[int]],
    negative: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    chunk: int = 64,
    share_prefix: bool = True,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Moments of both sets: dicts of count, mean and m2, float64 [n_layers, width]; on rank 0.

    Args:
        positive, negative: token ids.
        chunk: prompts of the larger set in one chunk; part of what a `resume` folder belongs to.
        resume: folder of finished chunks.
    Raises:
        ValueError: an empty set, a chunk size below 1, or steering together with `resume`.
        RuntimeError: a rank was lost (it is named), or the folder cannot be written.
    """
    require_all_ranks(model, "discover")
    if not positive or not negative or chunk < 1:
        raise ValueError(
            f"discover: expected prompts in both sets and chunks of 1 or more, got {len(positive)} "
            f"positive, {len(negative)} negative, chunks of {chunk}; pass some of each"
        )
    intervention, _ = model._steering(1)
    if resume is not None and model._stack():
        raise ValueError(
            "discover: expected an unsteered model with resume=, got a steered one; leave the steer "
            "block, or do not resume"
        )
    fewer, more = sorted((len(positive), len(negative)))
    n = min(fewer, -(-more // chunk))  # every chunk has prompts of both sets
    cuts = list(zip(split(len(positive), n), split(len(negative), n), strict=True))
    shape = (model.n_layers, model.width)

    def compute(i: int) -> Tensor:
        a, b = cuts[i]
        sides = model.core.contrast(
            positive[a],
            negative[b],
            intervention=intervention,
            batch_rows=batch_size,
            share_prefix=share_prefix,
        )
        return _pack(sides)

    key = _identity(model, list(positive), list(negative), n, share_prefix)
    shards = Shards(Path(resume) if resume is not None else None, "moments", key, n)
    merged: list[dict[str, Any]] = []
    with (
        group("discover") as processes,
        bar("discover", progress and processes.rank == 0, "chunk") as update,
    ):
        size = 2 + 4 * shape[0] * shape[1]
        for values in _run_shards(processes, shards, size, compute, update):
            sides = _unpack(values, shape)
            if merged:
                sides = [_core.merge_moments(a, b) for a, b in zip(merged, sides, strict=True)]
            merged = sides
        return (merged[0], merged[1]) if processes.rank == 0 else None


def universal_neurons_distributed(
    model: Model,
    prompts: Prompts | None = None,
    *,
    share: float = 0.8,
    top_fraction: float = 0.001,
    chat: bool | None = None,
    batch_size: int = 64,
    chunk: int = 16,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> UniversalNeurons | None:
    """As `cna.universal_neurons`, counted by all processes; the result is on rank 0.

    Raises:
        ValueError: fewer than 10 prompts, or shares outside (0, 1].
        RuntimeError: a rank was lost (it is named).
    """
    require_all_ranks(model, "universal_neurons")
    ids = model.tokenize(universal_prompts() if prompts is None else prompts, chat)
    if len(ids) < 10 or not 0 < share <= 1:
        raise ValueError(
            f"universal: expected 10 or more prompts and a share above 0 and up to 1, got {len(ids)} "
            f"and {share}; add diverse prompts"
        )
    n = -(-len(ids) // chunk)
    cuts = split(len(ids), n)

    def compute(i: int) -> Tensor:
        counter = model.core.count_universal(ids[cuts[i]], top_fraction, batch_rows=batch_size)
        return counter.counts.reshape(-1).double()

    key = _identity(model, ids, n, top_fraction)
    shards = Shards(Path(resume) if resume is not None else None, "universal", key, n)
    size = model.n_layers * model.width
    total = torch.zeros(size, dtype=torch.float64)
    with (
        group("universal") as processes,
        bar("universal neurons", progress and processes.rank == 0, "chunk") as update,
    ):
        for values in _run_shards(processes, shards, size, compute, update):
            total += values
        if processes.rank != 0:
            return None
    # As UniversalCounter.universal: the guard keeps ceil(0.8 * 10) at 8.
    least = max(1.0, float(np.ceil(share * len(ids) - 1e-9)))
    hits = (total.reshape(model.n_layers, model.width) >= least).nonzero().tolist()
    neurons = tuple((int(layer), int(index)) for layer, index in hits)
    return UniversalNeurons(neurons, len(ids), share, top_fraction, _hash(ids))


def discover_distributed(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    fraction: float = 0.001,
    k: int | None = None,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    ranking: str = "mean_difference",
    batch_size: int = 64,
    chunk: int = 64,
    share_prefix: bool = True,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> _core.Circuit | None:
    """As `cna.discover`, by all processes of this run; the circuit on rank 0, None on the others.

    Every rank calls it with the same arguments. The circuit does not depend on the number of
    processes; its deltas agree with `cna.discover` to float32 rounding (prefixes are shared
    chunk by chunk).

    Args:
        chunk: prompts of the larger set in one chunk.
        resume: folder, shared by all processes, that keeps finished chunks; a killed run goes on
            from them, also with another number of processes.
    Raises:
        ValueError: as `cna.discover`.
        RuntimeError: a rank was lost; the message names it.
    """
    require_all_ranks(model, "discover")
    check_size(model, fraction, k)
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    if isinstance(universal, str) and universal != "default":
        raise ValueError(
            f"discover: expected universal='default', None or cna.universal_neurons(...), got "
            f"{universal!r}; choose one"
        )
    with group("discover") as processes:
        removed: UniversalNeurons | None = None
        if isinstance(universal, UniversalNeurons):
            removed = universal
        elif universal == "default":
            removed = universal_neurons_distributed(
                model, chat=chat, batch_size=batch_size, resume=resume, progress=progress
            )
        moments = contrast_distributed(
            model,
            *sides,
            batch_size=batch_size,
            chunk=chunk,
            share_prefix=share_prefix,
            resume=resume,
            progress=progress,
        )
        if processes.rank != 0 or moments is None:
            return None
        circuit = model.core.select(
            *moments,
            fraction=fraction,
            k=k,
            universal=list(removed.neurons) if removed else [],
            ranking=ranking,
        )
        return with_prompt_provenance(circuit, model, sides, removed, chat)


def share_circuit(circuit: _core.Circuit | None) -> _core.Circuit:
    """Rank 0's circuit on every rank."""
    with group("discover") as processes:
        text = processes.share(circuit.to_json() if circuit is not None else None)
    return _core.Circuit.from_json(text) if circuit is None else circuit


def sweep_distributed(
    model: Model, circuit: _core.Circuit, task: Task, *args: Any, **kwargs: Any
) -> SweepResult | None:
    """As `cna.sweep`, the answers shared out over all processes; the result on rank 0.

    Every rank calls it with the same arguments; `out`, a folder that all processes share, is needed.
    Each rank appends its answers to `answers-<rank>.jsonl`; rank 0 merges them into `answers.jsonl`
    and measures the rest. A killed run goes on from all of these files.

    Raises:
        ValueError: as `cna.sweep`, or no `out`.
        RuntimeError: a rank was lost; the message names it.
    """
    require_all_ranks(model, "sweep")
    if kwargs.get("out") is None:
        raise ValueError(
            "sweep: expected out= for a run of several processes, got none; name a folder that they "
            "share"
        )
    folder = Path(kwargs["out"])
    unused = ("batch_size", "kl_prompts", "perplexity", "quiz", "quiz_questions", "out")
    todo = plan(model, circuit, task, *args, **{k: v for k, v in kwargs.items() if k not in unused})
    batch = int(kwargs.get("batch_size", 64))
    with group("sweep") as processes:
        ids = {
            name: model.tokenize(texts, task.chat) for name, texts in todo.prompts.items() if texts
        }
        jobs = [(arm, name, i) for arm in todo.arms for name in ids for i in range(len(ids[name]))]
        missing: list[int] = []
        if processes.rank == 0:
            done = _merge_answers(folder, todo.fingerprint).done
            missing = [j for j, (arm, name, i) in enumerate(jobs) if (arm.key, name, i) not in done]
        missing = processes.share(missing)
        rank = processes.rank
        batches = [missing[i : i + batch] for i in range(0, len(missing), batch)]
        mine = [jobs[j] for part in batches[rank :: processes.world] for j in part]
        log = AnswerLog(folder / f"answers-{rank}.jsonl", todo.fingerprint)
        answer_jobs(
            model,
            mine,
            ids,
            max_new_tokens=int(todo.settings["max_new_tokens"]),
            batch_size=batch,
            log=log,
            progress=bool(kwargs.get("progress", True)) and rank == 0,
        )
        processes.wait()
        if rank != 0:
            return None
        _merge_answers(folder, todo.fingerprint)
    return sweep(model, circuit, task, *args, **kwargs)


def _merge_answers(folder: Path, fingerprint: str) -> AnswerLog:
    """Takes the answers of all ranks into answers.jsonl; their files go when it is on the disk."""
    whole = AnswerLog(folder / "answers.jsonl", fingerprint)
    for path in sorted(folder.glob("answers-*.jsonl")):
        part = AnswerLog(path, fingerprint).done
        new = [(key, tokens) for key, tokens in part.items() if key not in whole.done]
        if new:
            whole.add(new)
        path.unlink()
    return whole
