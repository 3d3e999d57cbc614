"""GGUF metadata through plain arrays: the same values, and numpy as it was behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cna.hosts.gguf_metadata import plain_memory_maps
from gguf_writing import finished

gguf = pytest.importorskip("gguf")


def read(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    out: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    return out | {t.name: (type(t.data), t.data.copy()) for t in reader.tensors}


def test_values_and_tensors_are_those_of_a_memory_map(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_token_list([f"token {i}" for i in range(50)])
    writer.add_token_scores([i / 3 for i in range(50)])
    writer.add_context_length(77)
    writer.add_tensor("w", np.arange(12, dtype=np.float32).reshape(3, 4))
    path = finished(writer, tmp_path / "a.gguf")
    import gguf.gguf_reader as module

    slow = read(path)
    with plain_memory_maps():
        fast = read(path)
    assert module.np is np
    kind, data = fast.pop("w")
    plain, same = slow.pop("w")
    assert kind is np.ndarray and plain is np.memmap and np.array_equal(data, same)
    assert fast == slow and fast["tokenizer.ggml.tokens"][49] == "token 49"
    with pytest.raises(ZeroDivisionError), plain_memory_maps():
        _ = 1 / 0
    assert module.np is np
