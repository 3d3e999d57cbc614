"""Capture: on CUDA, the kernels of a step are taken down once and launched together from then on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .. import _core


def _on_cuda(device: str, work: Callable[[], None]) -> Callable[[], None]:
    """Calls `work` once on a stream of its own; what it launches there is what the result launches."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        work()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay


def allow_capture() -> None:
    """Steps on CUDA devices may be captured in this process; others are torch's own affair."""
    _core.set_capture("cuda", _on_cuda)
