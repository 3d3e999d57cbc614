"""Capture: on CUDA, the kernels of a step are taken down once and launched together from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .. import _core


@functools.cache
def _stream(device: str) -> torch.cuda.Stream:
    """The stream that a device's captures are taken down on: of that device, and kept, as cuBLAS keeps
    memory for each.
    """
    return torch.cuda.Stream(device=device)


def _on_cuda(device: str, work: Callable[[], None]) -> Callable[[], None]:
    """Calls `work` once on a stream of its own; what it launches there is what the result launches.

    Other threads may go on meanwhile. Where the capture fails, the thread is on its usual stream again.
    """
    graph = torch.cuda.CUDAGraph()
    own = _stream(device)
    with (
        torch.cuda.device(device),
        torch.cuda.stream(own),
        torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"),
    ):
        work()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


def allow_capture() -> None:
    """Steps on CUDA devices may be captured in this process; others are torch's own affair."""
    _core.set_capture("cuda", _on_cuda)
