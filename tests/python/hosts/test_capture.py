"""Captured steps: what refuses them; tests/cpp/torch_capture.cpp runs them on a second device."""

from __future__ import annotations

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


def test_on_cuda_torchs_graph_is_captured_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of torch's calls; what they do is tested where a GPU is (test_cuda.py)."""
    told: list[str] = []

    class Graph:
        def replay(self) -> None:
            told.append("replay")

    class Scope:
        def __init__(self, what: Any) -> None:
            self.name = what if isinstance(what, str) else type(what).__name__

        def __enter__(self) -> None:
            told.append(f"enter {self.name}")

        def __exit__(self, *_: Any) -> None:
            told.append(f"leave {self.name}")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "device", Scope)
    monkeypatch.setattr(torch.cuda, "graph", Scope)
    replay = capture._on_cuda("cuda:1", lambda: told.append("work"))
    around = ["enter cuda:1", "enter Graph", "work", "leave Graph", "leave cuda:1"]
    assert told == around
    replay()
    assert told[len(around) :] == ["enter cuda:1", "replay", "leave cuda:1"]
