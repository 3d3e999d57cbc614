"""What the owner of a module or a checkpoint set stays set, is followed, or is said to be left out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import transformers
from conftest import FAMILIES, PROMPTS, down_projections, make_hf, make_tokenizer, random_ids
from live_oracle import close, last_logits, recordings

IDS = random_ids([3, 7, 12], seed=9)


def dropping() -> Any:
    """A Llama in training, with dropout that shows, one of whose blocks its owner keeps from it."""
    hf = copy.deepcopy(make_hf("llama"))
    for layer in hf.model.layers:
        layer.self_attn.attention_dropout = 0.5
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.5))
    hf.train()
    hf.model.layers[1].eval()
    return hf


def test_a_module_in_training_is_recorded_without_dropout_and_trains_on() -> None:
    hf = dropping()
    flags = {name: m.training for name, m in hf.named_modules()}
    assert set(flags.values()) == {True, False}
    still = copy.deepcopy(hf).eval()
    expected = last_logits(still, IDS)
    model = cna.live(hf, None, pattern=r"mlp\.down_proj\.0$")
    for _ in range(2):
        assert close(model.logits(IDS), expected, 1e-4)
        downs = [layer.mlp.down_proj[0] for layer in still.model.layers]
        assert close(model.record(IDS), recordings(still, downs, IDS), 1e-4)
        assert {name: m.training for name, m in hf.named_modules()} == flags
        hf.model.layers[2].eval()  # the owner goes on setting them
        flags = {name: m.training for name, m in hf.named_modules()}


def test_a_module_in_training_is_exported_without_dropout_and_trains_on(tmp_path: Path) -> None:
    hf = dropping()
    flags = [m.training for m in hf.modules()]
    still = copy.deepcopy(hf).eval()
    folder = cna.export(hf, None, tmp_path / "m", tap_pattern=r"mlp\.down_proj\.0$")
    assert [m.training for m in hf.modules()] == flags
    assert close(cna.load(folder).logits(IDS), last_logits(still, IDS), 1e-4)


# --- generation settings ----------------------------------------------------------------------------


def with_settings(**settings: Any) -> Any:
    hf = copy.deepcopy(make_hf("llama"))
    hf.generation_config = transformers.GenerationConfig(eos_token_id=257, **settings)
    return hf


def both_hosts(hf: Any, folder: Path) -> list[cna.Model]:
    return [cna.live(hf, None), cna.load(cna.export(hf, None, folder / "m"))]


def test_settings_that_answers_do_not_follow_are_said(tmp_path: Path) -> None:
    hf = with_settings(repetition_penalty=1.3, do_sample=True, temperature=0.6, max_new_tokens=9)
    for model in both_hosts(hf, tmp_path):
        left_out = model.generation_settings_left_out
        assert left_out["repetition_penalty"] == 1.3 and left_out["temperature"] == 0.6
        assert "without the checkpoint's" in repr(model) and "repetition_penalty" in repr(model)
        with pytest.warns(UserWarning, match="the checkpoint's repetition_penalty is not followed"):
            model.generate(IDS, settings="checkpoint")


def test_greedy_settings_are_nothing_to_say(tmp_path: Path) -> None:
    """Also where a checkpoint spells out values that change nothing."""
    neutral = {"repetition_penalty": 1.0, "num_beams": 1, "top_p": 1.0, "temperature": 1.0}
    for settings in ({}, neutral, {"temperature": 0.7, "top_k": 3}):  # without do_sample
        model = cna.live(with_settings(**settings), None)
        assert model.generation_settings_left_out == {}
        assert "checkpoint" not in repr(model)


def test_the_checkpoints_settings_are_followed_where_asked(tmp_path: Path) -> None:
    hf = with_settings(do_sample=True, temperature=0.6, top_k=5, top_p=0.8, max_new_tokens=7)
    for model in both_hosts(hf, tmp_path):
        run: dict[str, Any] = {"return_tokens": True, "seed": 3}
        got = model.generate(IDS, settings="checkpoint", **run)
        by_hand = {"temperature": 0.6, "top_k": 5, "top_p": 0.8, "max_new_tokens": 7}
        assert got == model.generate(IDS, **by_hand, **run)
        assert got != model.generate(IDS, max_new_tokens=7, **run)  # greedy
    greedy = cna.live(with_settings(), None)
    assert greedy.generate(IDS, 5, settings="checkpoint") == greedy.generate(IDS, 5)
    with pytest.raises(ValueError, match="expected settings=None or 'checkpoint', got 'hf'"):
        greedy.generate(IDS, settings="hf")  # type: ignore[arg-type]


# --- lengths, and fields for what a model has not ---------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "longest"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 64),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}, 16),
        ({"rope_type": "default"}, 16),
    ],
)
def test_a_rope_of_fixed_factor_reaches_to_its_scaled_length(
    parameters: dict[str, Any], longest: int
) -> None:
    settings = FAMILIES["llama"][1] | {"max_position_embeddings": 16}
    config = transformers.LlamaConfig(
        **settings, rope_parameters={"rope_theta": 10000.0, **parameters}
    )
    torch.manual_seed(0)
    hf = transformers.LlamaForCausalLM(config).eval()
    model = cna.live(hf, None)
    assert model.core.max_positions == longest
    ids = random_ids([longest - 1, longest - 2], seed=2)
    assert close(model.logits(ids), last_logits(hf, ids), 1e-4)
    with pytest.raises(ValueError, match=f"expected at most {longest} tokens"):
        model.logits(random_ids([longest + 1]))


def test_a_dense_model_with_fields_for_experts_is_dense() -> None:
    hf = copy.deepcopy(make_hf("llama"))
    hf.config.num_experts = hf.config.n_routed_experts = 8
    assert close(cna.live(hf, None).logits(IDS), last_logits(hf, IDS), 1e-4)
    config = transformers.DogeConfig(
        **FAMILIES["llama"][1], is_moe=False, num_experts=64, sliding_window=None
    )
    torch.manual_seed(0)
    doge = transformers.DogeForCausalLM(config).eval()
    model = cna.live(doge, None)
    assert close(model.logits(IDS), last_logits(doge, IDS), 1e-4)
    assert close(model.record(IDS), recordings(doge, down_projections(doge), IDS), 1e-4)


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cna.export(make_hf("llama"), make_tokenizer(), "~/models/m")
    assert folder == tmp_path / "models" / "m" and (folder / "manifest.json").is_file()
    assert cna.load("~/models/m").tokenize(PROMPTS[:1])
    assert json.loads((folder / "manifest.json").read_text())["generation"] == {}
