"""Discovery and sweeps over several processes: `torchrun --nproc-per-node N -m cna discover ...`.

Prompts are cut into chunks that do not depend on the number of processes; chunks are dealt round-robin,
and rank 0 merges their moments in the chunks' order. So 1, 2 and 4 processes give the same circuit.
With a `resume` folder that all processes share, every finished chunk is kept there, and a run that
was killed goes on from them, with as many processes as you like.

The variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) say who takes part; without
them everything runs in this process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _core
from .answers import AnswerLog, answer_jobs
from .chunks import Shards, run_shards, split
from .discovery import UniversalNeurons, _hash, check_size, with_prompt_provenance
from .model import Model, Prompts
from .progress import bar
from .prompts import universal_prompts
from .ranks import group
from .shard import require_all_ranks
from .sweep import SweepResult, plan, sweep
from .tasks import Task


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
    what = [model.identity, str(model.dtype), *parts]
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
        for values in run_shards(processes, shards, size, compute, update):
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
        for values in run_shards(processes, shards, size, compute, update):
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
    unused = ("kl_prompts", "perplexity", "quiz", "quiz_questions", "out")
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
