"""The processes of a run, as torchrun starts them; every failure names the rank that is missing."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..base.errors import first_line
from ..hosts.auto import choose_device, is_auto
from ..hosts.model import Model

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
        reason = first_line(error)
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
        text = os.environ.get("CNA_DISTRIBUTED_TIMEOUT", "")
        try:
            seconds = float(text or timeout or TIMEOUT)
        except ValueError:
            raise ValueError(
                f"{function}: expected seconds as CNA_DISTRIBUTED_TIMEOUT, got '{text}'; set a number"
            ) from None
        try:
            dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=seconds))
        except (RuntimeError, ValueError) as error:
            reason = first_line(error)
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
    """ "cuda", or "auto" where there is one, becomes the CUDA device of this rank on its machine."""
    chosen = choose_device("load", device) if is_auto(device) else device
    if is_distributed() and chosen == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device
