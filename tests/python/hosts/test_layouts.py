"""In every layout that a run uses, a host gives what the plain module gives, or leaves it out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.hosts import layouts
from conftest import RECENT, make_hf, needs_recent, random_ids
from families import build
from live_oracle import close, greedy, last_logits, recordings

CAUSAL = ["llama", "gpt_neox", "mistral", "gemma3", "mpt", "gpt_neo"]
WRAPPED = ["mistral+peft", "gemma2+peft", "llava", "gemma3_vision"]
LIVE_ONLY = ["bloom", "opt", "openai-gpt", "falcon", "falcon-alibi", "falcon-one-key"]
PAIRS = [("live", name) for name in (*CAUSAL, *WRAPPED, *LIVE_ONLY)]
# The cached steps of 5.0's MPT are not its plain passes: live it runs whole prompts, an export refuses.
PAIRS += [
    pytest.param("torchscript", name, marks=[needs_recent] if name == "mpt" else [])
    for name in (*CAUSAL, *WRAPPED)
]


def prompts_of(head: int) -> list[list[int]]:
    """Ragged prompts with `head` common tokens, within the window of 6 and far beyond it."""
    first = random_ids([head], seed=5)[0]
    return [first + rest for rest in random_ids([1, 2, 5, 9, 17, 2], seed=6)]


def end_of(hf: Any) -> int:
    return hf.generation_config.eos_token_id or -1


def open_host(host: str, hf: Any, folder: Path) -> cna.Model:
    if host == "live":
        return cna.live(hf, None)
    return cna.load(cna.export(hf, None, folder / "m"))


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_ragged_prompts_with_a_shared_prefix_are_those_of_the_plain_module(
    host: str, name: str, tmp_path: Path
) -> None:
    hf, downs = build(name)
    model = open_host(host, hf, tmp_path)
    assert model.n_layers == len(downs) == 4
    for head in (0, 3, 9):
        ids = prompts_of(head)
        plain = recordings(hf, downs, ids)
        logits = last_logits(hf, ids)
        for run in ({}, {"share_prefix": False}, {"batch_size": 1}):
            assert close(model.logits(ids, **run), logits, 1e-4), (head, run)
            assert close(model.record(ids, **run), plain, 1e-4), (head, run)
    ids = prompts_of(3)[2:5]
    answers = model.generate(ids, max_new_tokens=8, return_tokens=True)
    assert answers == [greedy(hf, p, 8, end_of(hf)) for p in ids]


def test_sound_models_lose_no_layout() -> None:
    for name in (*CAUSAL, *WRAPPED, "opt"):
        if name == "mpt" and not RECENT:
            continue
        model = cna.live(build(name)[0], None)
        assert model.core.has_cache, name
        assert all(model.core.layouts.values()), (name, model.core.layouts)
        assert layouts.limits(model.core) == []


# --- models that are wrong in one layout ------------------------------------------------------------


def broken(change: Any) -> Any:
    """A Llama whose first MLP gets something else than its input: change(x) -> x."""
    hf = copy.deepcopy(make_hf("llama"))
    forward = hf.model.layers[0].mlp.forward
    hf.model.layers[0].mlp.forward = lambda x: forward(change(x))
    return hf


def mixes_rows(x: torch.Tensor) -> torch.Tensor:
    return x + x[:, -1:].mean(0, keepdim=True) - x[:, -1:]


def sees_padding(x: torch.Tensor) -> torch.Tensor:
    """Rows whose first two new tokens are padding (all alike) get another input."""
    same = (x[:, :1] == x[:, 1:2]).sum((1, 2), keepdim=True) == x.shape[-1]
    return torch.where(same, 1.5 * x, x)


def looks_ahead(x: torch.Tensor) -> torch.Tensor:
    return x + x[:, -1:]


BROKEN = {"mixes_rows": mixes_rows, "sees_padding": sees_padding}
SAID = {
    "mixes_rows": "one prompt at a time, in cached steps",
    "sees_padding": "only prompts of equal length together",
}


@pytest.mark.parametrize("host", ["live", "torchscript"])
@pytest.mark.parametrize("which", BROKEN)
def test_a_layout_that_is_wrong_is_left_out_and_said(which: str, host: str, tmp_path: Path) -> None:
    hf = broken(BROKEN[which])
    model = open_host(host, hf, tmp_path)
    assert SAID[which] in repr(model)
    downs = [layer.mlp.down_proj for layer in hf.model.layers]
    for head in (0, 3, 9):
        ids = prompts_of(head)
        assert close(model.logits(ids), last_logits(hf, ids), 1e-4)
        assert close(model.record(ids), recordings(hf, downs, ids), 1e-4)
    ids = prompts_of(3)[1:]
    answers = model.generate(ids, max_new_tokens=6, return_tokens=True)
    assert answers == [greedy(hf, p, 6, 257) for p in ids]


def test_cached_steps_that_are_wrong_run_whole_or_are_refused(tmp_path: Path) -> None:
    hf = broken(looks_ahead)
    model = cna.live(hf, None)
    assert not model.core.has_cache and "one prompt at a time" in repr(model)
    assert close(model.logits(prompts_of(3)), last_logits(hf, prompts_of(3)), 1e-5)
    with pytest.raises(ValueError, match=r"cached steps are not its plain passes .* cna\.live"):
        cna.export(hf, None, tmp_path / "m")


def test_an_export_says_which_layouts_it_may_use(tmp_path: Path) -> None:
    folder = cna.export(broken(mixes_rows), None, tmp_path / "m")
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {"batch": False, "padding": False, "share_prefix": True, "room": True}
    assert manifest["layouts"] == found
    assert manifest["residual_sites"] is True


@pytest.mark.parametrize("name", ["mistral", "gemma3", "llava", "mistral+peft"])
def test_a_window_too_long_to_exceed_is_compared_narrowed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for windows of thousands of tokens; the numbers beyond the real one are right as well."""
    monkeypatch.setattr("cna.hosts.windows.affordable", lambda _: 0)
    monkeypatch.setattr("cna.hosts.layouts.SHORT", 6)
    hf, downs = build(name)
    windows = {id(m): m.sliding_window for m in hf.modules() if hasattr(m, "sliding_window")}
    model = cna.live(hf, None)
    assert all(model.core.layouts.values()) and model.core.has_cache
    assert windows == {
        id(m): m.sliding_window for m in hf.modules() if hasattr(m, "sliding_window")
    }
    assert hf.config.get_text_config().sliding_window == 6
    ids = prompts_of(9)
    assert close(model.record(ids), recordings(hf, downs, ids), 1e-4)
