"""The cache of exports follows what Hugging Face itself would load now."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cna
import huggingface_hub.constants
import pytest
import torch
from cna.hosts import export_cache, source
from conftest import CHAT_TEMPLATE, make_hf, make_tokenizer
from transformers import AutoModelForCausalLM

IDS = [[256, 5, 9, 31, 7], [256, 8]]
OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """transformers' own cache with two commits of org/tiny, of which `main` is the older one."""
    folder = tmp_path / "hub" / "models--org--tiny"
    for commit, seed in ((OLD, 0), (NEW, 1)):
        make_hf("llama", seed=seed, layers=2).save_pretrained(folder / "snapshots" / commit)
        make_tokenizer().save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(OLD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CNA_CACHE", str(tmp_path / "exports"))
    yield folder


def plain(seed: int) -> torch.Tensor:
    hf = make_hf("llama", seed=seed, layers=2)
    with torch.no_grad():
        return torch.stack([hf(torch.tensor([row])).logits[0, -1] for row in IDS])


def close(model: cna.Model, seed: int) -> bool:
    return torch.allclose(model.logits(IDS, progress=False), plain(seed), rtol=0, atol=1e-4)


def quietly(*args: Any, **options: Any) -> cna.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return cna.load(*args, **options)


def test_a_branch_that_moved_is_exported_again(hub: Path, capsys: Any) -> None:
    first = quietly("org/tiny")
    assert close(first, 0) and first.core.weights_hash == OLD
    (hub / "refs" / "main").write_text(NEW)
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained("org/tiny").lm_head.weight,
        make_hf("llama", seed=1, layers=2).lm_head.weight,
    )
    second = quietly("org/tiny")
    assert close(second, 1) and second.core.weights_hash == NEW
    assert capsys.readouterr().err.count("cna: exporting org/tiny") == 2
    again = quietly("org/tiny", revision=OLD)  # both are kept
    assert close(again, 0) and again.path == first.path
    # Nothing says what the name is now: the newest export of that name, and a line that says so.
    shutil.rmtree(hub)
    capsys.readouterr()
    assert quietly("org/tiny").path == second.path
    assert "taking the export of commit 2222" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="expected a Hugging Face model 'org/other'"):
        quietly("org/other")


def test_revision_belongs_to_hub_names(hub: Path, exports: Any) -> None:
    for name in (exports("llama"), "smollm2"):
        with pytest.raises(ValueError, match=r"expected revision= with a Hugging Face id only"):
            cna.load(name, revision="main")


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_changed_chat_template_is_seen(hub: Path, place: str) -> None:
    folder = hub / "snapshots" / OLD
    name: Any = "org/tiny" if place == "hub" else folder
    before = quietly(name).tokenize(["Hi"])
    template = CHAT_TEMPLATE.replace("helpful", "dull")
    (folder / "chat_template.jinja").write_text(template)
    after = quietly(name)
    assert after.tokenizer.chat_template == template and after.tokenize(["Hi"]) != before


def test_another_version_of_anything_is_another_export(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder() -> Path:
        with contextlib.redirect_stderr(None):
            return export_cache.export_cached("org/tiny")

    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        export_cache,
        "_export_to",
        lambda path, key, *_: (path.mkdir(parents=True), made.append(key)),
    )
    seen = {folder()}
    real = export_cache.versions()
    for name in ("cna", "torch", "transformers"):
        changed = {**real, name: "99"}
        monkeypatch.setattr(export_cache, "versions", lambda changed=changed: changed)
        seen.add(folder())
    assert len(seen) == 4 and len(made) == 4


def test_a_short_or_missing_commit_is_none(hub: Path) -> None:
    assert source.hub_commit("org/tiny") == OLD
    assert source.hub_commit("org/tiny", NEW) == NEW
    assert source.hub_commit("org/none") is None
    assert source.hub_commit("not a name") is None


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CNA_CACHE", "~/exports")
    assert cna.loading.cache_folder() == tmp_path / "exports"
    assert cna.loading.cache_folder("~/other") == tmp_path / "other"
    out = cna.export(make_hf("llama", layers=2), None, "~/model")
    assert out == tmp_path / "model" and cna.load("~/model").n_layers == 2


def test_no_home_and_no_place_to_write_are_one_clear_line(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNA_CACHE", "~nobody-of-this-name/exports")
    with pytest.raises(RuntimeError, match=r"^load: expected a home directory .*set CNA_CACHE"):
        cna.load("org/tiny")
    with pytest.raises(RuntimeError, match=r"^load: expected a home directory .*whole path"):
        cna.load("~nobody-of-this-name/model")
    monkeypatch.setenv("CNA_CACHE", "/proc/exports")
    with pytest.raises(RuntimeError, match=r"^load: expected to write to '/proc/exports'"):
        cna.load("org/tiny")
