"""`cna cache` says what the cache holds, and removes only what it was told to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cna
import pytest
from cna.cli import main
from cna.hosts import export_cache
from conftest import make_hf, make_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two exports: of a folder as it is, and of one that was changed since."""
    monkeypatch.setenv("CNA_CACHE", str(tmp_path / "exports"))
    for name in ("first", "second"):
        make_hf("llama", layers=2).save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
        cna.load(tmp_path / name)
    (tmp_path / "second" / "config.json").touch()
    return tmp_path / "exports"


def lines(capsys: Any, *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["cache", *words]) == 0
    return capsys.readouterr().out.splitlines()


def row(found: list[str], name: str) -> str:
    (one,) = [line for line in found if f"/{name} " in line]
    return one


def age(folder: Path, days: float) -> None:
    record = json.loads((folder / "cached_as.json").read_text())
    (folder / "cached_as.json").write_text(
        json.dumps(record | {"made": time.time() - days * 86400})
    )


def test_the_list_says_what_is_current(cache: Path, capsys: Any, tmp_path: Path) -> None:
    found = lines(capsys, "list")
    first = row(found, "first")
    assert first.endswith("current") and "float32" in first and "torchscript" in first
    assert f"transformers {export_cache.versions()['transformers']}" in first
    assert row(found, "second").endswith("old: files")
    assert found[-1].startswith("2 in ")
    (tmp_path / "first").rename(tmp_path / "away")
    assert row(lines(capsys, "list"), "first").endswith("old: the model's folder is gone")
    (next(cache.glob("first-*")) / "cached_as.json").unlink()
    assert any("made by an older cna" in line for line in lines(capsys, "list"))


def test_another_version_is_named(
    cache: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export_cache.versions()
    monkeypatch.setattr(export_cache, "versions", lambda: real | {"transformers": "9.9"})
    assert row(lines(capsys, "list"), "first").endswith(f"{real['transformers']} -> 9.9")


def test_clear_removes_what_it_was_told(cache: Path, capsys: Any) -> None:
    assert main(["cache", "clear"]) == 2  # nothing without --yes
    assert "expected --yes" in capsys.readouterr().err and len(list(cache.glob("[fs]*-*"))) == 2
    assert main(["cache", "clear", "third", "--yes"]) == 2
    first, second = (next(cache.glob(f"{name}-*")) for name in ("first", "second"))
    age(first, 40)
    assert lines(capsys, "clear", "--older-than", "50", "--yes") == ["nothing to remove"]
    lines(capsys, "clear", "--older-than", "30", "--yes")
    assert not first.exists() and second.exists()
    lines(capsys, "clear", "--outdated", "--yes")
    assert not any(path for path in cache.iterdir() if path.is_dir())
    assert lines(capsys, "list") == [f"no exports in {cache}"]


def test_a_name_and_an_export_under_way(cache: Path, capsys: Any) -> None:
    second = next(cache.glob("second-*"))
    with export_cache.lock_of(second):
        found = lines(capsys, "clear", second.name, "--yes")
    assert second.exists() and any("a process is writing it" in line for line in found)
    lines(capsys, "clear", "second", "--yes")
    assert not second.exists() and next(cache.glob("first-*")).exists()


def test_what_a_killed_export_left_goes_too(cache: Path, capsys: Any) -> None:
    first = next(cache.glob("first-*"))
    rest = cache / f".{first.name}.abc123"
    rest.mkdir()
    (rest / "model.pt").write_bytes(b"x" * 2000)
    assert lines(capsys, "list")[-1].startswith("1 unfinished, 2 kB")
    lines(capsys, "clear", "--older-than", "1", "--yes")
    assert not rest.exists() and first.exists()
    assert cna.load(first).n_layers == 2
