"""Exported models give the numbers of the Hugging Face models they come from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import transformers
from cna.base.files import file_sha256
from cna.hosts import torchscript, windows
from cna.hosts.step import CausalStep, quiet_tracing, traceable_attention
from conftest import (
    FAMILIES,
    IDS,
    PROMPTS,
    hf_record,
    make_hf,
    make_tokenizer,
    random_ids,
)

LENGTHS = [1, 2, 5, 9, 23]  # beyond the sliding window of 6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_of_any_length_changes_nothing(family: str, exports: Any) -> None:
    """Shorter and longer than the sliding window; none and a chat's head: test_hosts.py."""
    model = cna.load(exports(family))
    for past in (3, 8):
        head = random_ids([past], seed=2)[0]
        ids = [head + p for p in random_ids([3, 7, 12], seed=3)]
        apart = model.logits(ids, share_prefix=False, batch_size=1)
        together = model.logits(ids, share_prefix=True)
        assert (apart - together).abs().max() <= 1e-4 * apart.abs().max(), past


class FirstStep(torch.nn.Module):
    """The step of format version 1: no places, keys and values go to the end of their buffers."""

    def __init__(self, step: CausalStep) -> None:
        super().__init__()
        self.model, self._step = step.model, (step,)

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        keep: torch.Tensor,
        *buffers: torch.Tensor,
    ) -> torch.Tensor:
        places = torch.arange(mask.shape[1] - ids.shape[1], mask.shape[1])
        return self._step[0].forward(ids, mask, positions, keep, places, *buffers)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_export_of_the_first_step_still_opens(family: str, exports: Any, tmp_path: Path) -> None:
    new = Path(exports(family))
    old = shutil.copytree(new, tmp_path / "old")
    hf = make_hf(family)
    manifest = json.loads((old / "manifest.json").read_text())
    assert manifest["format_version"] == 2 and manifest["layouts"]["room"] is True
    step = FirstStep(CausalStep(hf, windows.ways_of_masking(hf)[0])).eval()
    ids = torch.ones(2, 5, dtype=torch.long)
    buffers = [torch.zeros(2, heads, 8, dim) for heads, *dims in manifest["cache"] for dim in dims]
    example = (ids, torch.ones(2, 8, dtype=torch.long), ids.cumsum(1) + 2, torch.tensor([4]))
    with traceable_attention(hf), torch.no_grad(), quiet_tracing():
        traced = torch.jit.trace(step, (*example, *buffers), check_trace=False)
    torchscript.save(traced, old / "model.pt")
    del manifest["layouts"]["room"]
    about = {"format_version": 1, "sha256": file_sha256(old / "model.pt"), "unembedding": ""}
    (old / "manifest.json").write_text(json.dumps(manifest | about))
    for fuse in (True, False):
        prompts = random_ids(LENGTHS)
        first, second = (cna.load(folder, fuse=fuse) for folder in (old, new))
        assert second.core.has_room and not first.core.has_room
        assert torch.equal(first.logits(prompts), second.logits(prompts))
        assert torch.equal(cna.record(first, prompts), cna.record(second, prompts))
        assert first.generate(prompts, 9) == second.generate(prompts, 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_low_precision_exports_follow_eager(family: str, dtype: torch.dtype, exports: Any) -> None:
    hf, model = make_hf(family, dtype), cna.load(exports(family, dtype))
    assert model.dtype == dtype
    ids = random_ids(LENGTHS)
    with torch.inference_mode():
        expected = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids]).float()
    assert (model.logits(ids) - expected).abs().max() <= 0.05 * expected.abs().max()
    plain = torch.from_numpy(hf_record(hf, ids, family))
    exact = cna.record(model, ids, batch_size=1, share_prefix=False)
    assert (exact - plain).abs().max() <= 0.05 * plain.abs().max()


def test_export_leaves_the_model_as_it_was(exports: Any) -> None:
    hf = make_hf("llama")
    assert hf.config._attn_implementation == "sdpa"
    exports("llama")
    assert hf.config._attn_implementation == "sdpa"
    assert not hf.training


def test_the_manifest_names_model_shape_and_weights(exports: Any) -> None:
    model = cna.load(exports("qwen3"))
    assert (model.n_layers, model.width, model.hidden_size) == (4, 64, 32)
    assert model.model_id == "qwen3"
    assert len(model.core.weights_hash) == 64
    assert model.core.eos_ids == [IDS["eos_token_id"]]
    assert all("down_proj" in site for site in model.core.neuron_sites)


def test_every_family_has_a_residual_stream(exports: Any) -> None:
    for family in FAMILIES:
        hf, model = make_hf(family), cna.load(exports(family))
        assert model.core.has_residual_sites, family
        ids = random_ids([7], seed=4)
        with torch.inference_mode():
            states = hf(torch.tensor(ids), output_hidden_states=True).hidden_states
        # The last entry is normalised; those between are the stream after each layer.
        expected = torch.stack([s[0, -1] for s in states[1:-1]])
        got = cna.record(model, ids, site="residual")[0, :-1]
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max(), family


def test_encoder_decoder_is_refused(tmp_path: Any) -> None:
    config = transformers.T5Config(
        d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8, vocab_size=64
    )
    with pytest.raises(ValueError, match="encoder-decoder"):
        cna.export(transformers.T5ForConditionalGeneration(config), None, tmp_path / "x")
    with pytest.raises(ValueError, match="expected a transformers causal language model"):
        cna.export(torch.nn.Linear(2, 2), None, tmp_path / "x")


def test_a_failed_export_leaves_the_older_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cna.export(make_hf("llama"), make_tokenizer(), tmp_path / "m")
    before = (path / "manifest.json").read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["cna.hosts.export"], "file_sha256", full)
    with pytest.raises(RuntimeError, match="No space left"):
        cna.export(make_hf("llama"), make_tokenizer(), path)
    assert (path / "manifest.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_export_refuses_a_folder_with_other_files(tmp_path: Any) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="got other files"):
        cna.export(make_hf("llama"), None, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_trace_made_elsewhere_can_be_recorded_and_steered(tmp_path: Any) -> None:
    """A bare file: plain forward(ids) -> logits, no cache, no manifest."""

    class Plain(torch.nn.Module):
        def __init__(self, hf: Any) -> None:
            super().__init__()
            self.hf = hf

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.hf(ids, use_cache=False).logits

    hf = make_hf("llama")
    hf.set_attn_implementation("eager")
    try:
        with torch.no_grad(), sys.modules["cna.hosts.step"].quiet_tracing():
            traced = torch.jit.trace(Plain(hf), torch.randint(0, 9, (1, 6)), check_trace=False)
    finally:
        hf.set_attn_implementation("sdpa")
    traced.save(tmp_path / "plain.pt")
    model = cna.load(tmp_path / "plain.pt")
    ids = random_ids([6, 6, 6])
    plain = torch.from_numpy(hf_record(hf, ids))
    got = cna.record(model, ids)
    assert (got - plain).abs().max() <= 1e-4 * plain.abs().max()
    circuit = cna.discover(model, ids[:2], ids[2:], k=5, universal=None)
    with model.steer(circuit, 0.0):
        steered = cna.record(model, ids)
    assert all((steered[:, n.layer, n.index] == 0).all() for n in circuit)


def test_prompts_pass_through_the_chat_template_with_one_bos(exports: Any) -> None:
    model = cna.load(exports("llama"))
    ids = model.tokenize(PROMPTS)
    assert all(row.count(IDS["bos_token_id"]) == 1 and row[0] == 256 for row in ids)
    assert model.tokenizer.decode(ids[0]).endswith("<assistant>")
    raw = model.tokenize(PROMPTS, chat=False)
    assert model.tokenizer.decode(raw[1]) == PROMPTS[1]
