"""The README's program prints a result and draws a picture; test_docs.py runs every other block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cna
import pytest
from conftest import make_hf, make_tokenizer

README = Path(__file__).parents[3] / "README.md"


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny model with the default model's vocabulary of calls; the default one is the demo's."""
    folder = cna.export(make_hf("llama"), make_tokenizer(), tmp_path / "tiny")
    tiny = cna.load(folder)
    monkeypatch.setattr(cna, "load", lambda name, **_: tiny)
    monkeypatch.chdir(tmp_path)
    source = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert len(source) == 1 and len(source[0].splitlines()) <= 18
    # Its prompts are longer than 256 bytes with a byte tokenizer only if the answer is long.
    names: dict[str, Any] = {}
    exec(compile(source[0], "README.md", "exec"), names)
    assert "before:" in capsys.readouterr().out
    assert (tmp_path / "dose_response.png").stat().st_size > 1000
    assert cna.Circuit.load(tmp_path / "circuit.json") == names["circuit"]
