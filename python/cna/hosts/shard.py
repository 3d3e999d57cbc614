"""Tensor parallelism: the part of a layer's neurons that this process holds.

A down projection that is split by its inputs (row-parallel) sees only the process's own neurons. The
weight's placement says which: process r of n holds those from r * c to (r + 1) * c, c = ceil(width / n).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .placement import is_dtensor


@dataclasses.dataclass(frozen=True)
class Shard:
    """Neurons `first` to `first + size` of `width`; `world` processes of `group` hold them all."""

    first: int
    size: int
    width: int
    world: int
    group: Any

    def gather(self, part: Tensor) -> Tensor:
        """[rows, size] of every process -> [rows, width] on every process."""
        padded = F.pad(part, (0, -(-self.width // self.world) - self.size)).contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        torch.distributed.all_gather(parts, padded, group=self.group)
        return torch.cat(parts, -1)[:, : self.width]


def shard_of(name: str, module: nn.Module, width: int) -> Shard | None:
    """The shard that a down projection's weight is placed by; None if this process has all of it.

    Raises:
        ValueError: the weight is split in another way.
    """
    weight = getattr(module, "weight", None)
    if not is_dtensor(weight):
        return None
    from torch.distributed.tensor import Shard as Split

    places = weight.placements  # type: ignore[union-attr]
    mesh = weight.device_mesh  # type: ignore[union-attr]
    split = [i for i, place in enumerate(places) if not place.is_replicate()]
    if not split:
        return None
    inputs = 0 if hasattr(module, "nx") else 1  # GPT-2's Conv1D is [inputs, outputs]
    place = places[split[0]]
    if len(split) > 1 or type(place) is not Split or place.dim % weight.ndim != inputs:  # type: ignore
        raise ValueError(
            f"live: expected '{name}' whole or split by its inputs (row-parallel), got "
            f"{', '.join(map(str, places))}; load the model with its own tensor-parallel plan"
        )
    world, rank = mesh.size(split[0]), mesh.get_local_rank(split[0])
    each = -(-width // world)
    first = min(rank * each, width)
    size = min(each, width - first)
    return Shard(first, size, width, world, mesh.get_group(split[0]))


def require_all_ranks(model: Any, function: str) -> None:
    """Raises ValueError where prompts would be dealt to processes that share one model."""
    if model.ranks > 1:
        raise ValueError(
            f"{function}: expected a whole model in each process, got one shared by {model.ranks}; call "
            f"cna.{function} in all of them, with the same arguments"
        )
