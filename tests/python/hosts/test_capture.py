"""Captured steps: what refuses them; tests/cpp/torch_capture.cpp runs them on a second device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna import _core
from cna.hosts import capture


def test_a_cpu_captures_nothing(exports: Any) -> None:
    with pytest.raises(ValueError, match=r"load: expected a device that captures steps, got cpu"):
        cna.load(exports("llama"), capture=True)
    assert not cna.load(exports("llama")).core.captures


def test_a_live_model_captures_nothing() -> None:
    with pytest.raises(ValueError, match=r"expected an export for capture=True, got format='live'"):
        cna.load("smollm2", format="live", capture=True)


def test_a_bare_file_captures_nothing(exports: Any) -> None:
    archive = Path(exports("llama")) / "model.pt"
    with pytest.raises(
        ValueError, match=r"load: expected an export whose buffers.*got a bare file"
    ):
        _core.Model.load(archive, capture=True)


class Told:
    """Stands for torch.cuda where no GPU is: what is entered and left, and the streams made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.events: list[str] = []
        self.streams: list[str] = []  # the device of each
        self.fails = fails  # as torch does where the capture was broken
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "Stream", self.make_stream)
        monkeypatch.setattr(torch.cuda, "device", lambda device: self.scope(f"device {device}"))
        monkeypatch.setattr(torch.cuda, "stream", self.scope)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        capture._stream.cache_clear()

    def make_stream(self, device: str) -> str:
        self.streams.append(device)
        return f"stream {len(self.streams)}"

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        self.events.append(f"enter {name}")
        try:
            yield
        finally:
            self.events.append(f"leave {name}")

    @contextmanager
    def graph(self, graph: Any, *, stream: str, capture_error_mode: str) -> Iterator[None]:
        with self.scope(f"graph on {stream}, {capture_error_mode}"):
            yield
            if self.fails:
                raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        self.events.append("replay")


def test_on_cuda_torchs_graph_is_captured_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of torch's calls; what they do is tested where a GPU is (test_cuda.py)."""
    told = Told(monkeypatch)
    for device, own in (("cuda:1", "stream 1"), ("cuda:0", "stream 2"), ("cuda:1", "stream 1")):
        told.events.clear()
        replay = capture._on_cuda(device, lambda: told.events.append("work"))
        inside = [f"device {device}", own, f"graph on {own}, thread_local"]
        around = [f"enter {x}" for x in inside] + ["work"] + [f"leave {x}" for x in inside[::-1]]
        assert told.events == around
        replay()
        again = [f"enter device {device}", "replay", f"leave device {device}"]
        assert told.events[len(around) :] == again
    assert told.streams == ["cuda:1", "cuda:0"]
    capture._stream.cache_clear()


def test_a_capture_that_fails_leaves_the_thread_on_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told(monkeypatch, fails=True)
    with pytest.raises(RuntimeError, match=r"previous error during capture"):
        capture._on_cuda("cuda:0", lambda: None)
    assert told.events[-2:] == ["leave stream 1", "leave device cuda:0"]
    capture._stream.cache_clear()
