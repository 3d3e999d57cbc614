"""A long run in chunks: dealt to processes, kept on the disk as they finish, taken in their order."""

from __future__ import annotations

import io
import itertools
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.files import write_whole
from ..base.hashes import hash_of
from ..hosts.about import fingerprint_parts
from ..hosts.model import Model
from .ranks import Group


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


def run_shards(
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


def identity(model: Model, *parts: Any) -> str:
    """What the numbers of a run depend on, as a short hash: the model, versions and `parts`.

    Prompts belong into `parts` as token ids: a chat template that writes the date, or that was
    changed, then makes another run.
    """
    return hash_of(fingerprint_parts(model), *parts)
