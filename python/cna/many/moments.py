"""Moments of both sets of prompts, counted in chunks by all processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.shard import require_all_ranks
from .chunks import Shards, identity, run_shards, split
from .ranks import group


def _pack(sides: Sequence[dict[str, Any]]) -> Tensor:
    counts = torch.tensor([side["count"] for side in sides], dtype=torch.float64)
    return torch.cat([counts, *(side[k].reshape(-1) for side in sides for k in ("mean", "m2"))])


def _unpack(values: Tensor, shape: tuple[int, int]) -> list[dict[str, Any]]:
    grids = values[2:].reshape(2, 2, *shape)
    return [
        {"count": int(values[side]), "mean": grids[side, 0], "m2": grids[side, 1]}
        for side in range(2)
    ]


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

    key = identity(model, list(positive), list(negative), n, share_prefix)
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
