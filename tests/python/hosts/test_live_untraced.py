"""Live models that no trace and no cache of keys and values holds: other state, branches, long ropes."""

from __future__ import annotations

import copy
from typing import Any

import cna
import pytest
import torch
import transformers
from conftest import (
    HEADS,
    IDS,
    LONG,
    PROMPTS,
    SMALL,
    down_projections,
    make_hf,
    make_tokenizer,
    needs_recent,
)
from live_oracle import close, equals_plain_hooks, greedy, last_logits, recordings

LINEAR = {f"linear_{n}": v for n, v in [("num_key_heads", 2), ("num_value_heads", 4)]}
LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
MIXED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Lfm2": ("conv", {"block_auto_adjust_ff_dim": False}, "feed_forward.w2"),
    "Qwen3_5": ("linear_attention", {"head_dim": 8, **LINEAR}, "mlp.down_proj"),
    "FalconH1": ("", {"head_dim": 8, **MAMBA}, "feed_forward.down_proj"),
    "RecurrentGemma": ("", {"head_dim": 8, "attention_window_size": 6}, "mlp_block.down_proj"),
}


def mixed(name: str) -> tuple[Any, list[Any]]:
    """A random model of a family whose layers keep more than keys and values."""
    kind, settings, down = MIXED[name]
    if kind:
        settings = settings | {"layer_types": [kind, "full_attention"] * 2}
    text = "Text" if name == "Qwen3_5" else ""
    config = getattr(transformers, f"{name}{text}Config")(**SMALL, **HEADS, **IDS, **settings)
    torch.manual_seed(0)
    hf = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    return hf, [m for n, m in hf.named_modules() if n.endswith(down)]


# 5.0 has no Qwen 3.5, and its RecurrentGemma gives other logits with a cache than without.
OTHER_STATE = [
    pytest.param(name, marks=[needs_recent] if name in ("Qwen3_5", "RecurrentGemma") else [])
    for name in MIXED
]


@pytest.mark.parametrize("name", OTHER_STATE)
def test_models_with_other_state_run_whole_prompts(name: str) -> None:
    hf, downs = mixed(name)
    assert len(downs) == 4
    model = cna.live(hf, make_tokenizer())
    assert not model.core.has_cache
    equals_plain_hooks(model, hf, downs, tolerance=1e-6)
    assert model.record(PROMPTS[:2], site="residual").shape == (2, 4, 32)


@pytest.mark.parametrize("name", ["OPT", "Bloom"])
def test_models_that_flatten_tokens_or_bias_attention(name: str) -> None:
    """OPT's MLP sees [rows * tokens, features]; Bloom's distances are in its mask."""
    sizes = (
        {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"word_embed_proj_dim": 32, **LONG}
        if name == "OPT"
        else {"hidden_size": 32, "n_layer": 4, "n_head": 4}
    )
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**sizes, **IDS, vocab_size=320)
    hf = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    down = "fc2" if name == "OPT" else "dense_4h_to_h"
    downs = [m for n, m in hf.named_modules() if n.endswith(down)]
    model = cna.live(hf, make_tokenizer())
    assert model.core.has_cache == (name == "OPT")
    equals_plain_hooks(model, hf, downs)
    assert model.record(PROMPTS[:2], site="residual").shape == (2, 4, 32)


def test_a_forward_that_branches_on_values() -> None:
    class Branching(torch.nn.Module):
        """Turns its neurons round, or not, by the newest token."""

        def __init__(self, mlp: torch.nn.Module) -> None:
            super().__init__()
            self.act, self.up, self.down_proj = mlp.act_fn, mlp.up_proj, mlp.down_proj
            self.turns: list[bool] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.act(self.up(x))
            self.turns.append(bool(x[:, -1].sum() > 0))
            if self.turns[-1]:
                hidden = -2.0 * hidden
            return self.down_proj(hidden)

    hf = copy.deepcopy(make_hf("llama"))
    for layer in hf.model.layers:
        layer.mlp = Branching(layer.mlp)
    model = cna.live(hf, make_tokenizer(), cache=False)
    equals_plain_hooks(model, hf, down_projections(hf), tolerance=1e-6)
    assert all({True, False} == set(layer.mlp.turns) for layer in hf.model.layers)


def test_divergence_without_a_cache_is_that_with_one() -> None:
    hf = make_hf("llama")
    cached, whole = (cna.live(copy.deepcopy(hf), None, cache=c) for c in (True, False))
    assert cached.core.has_cache and not whole.core.has_cache
    ids = [[5, 6, 7], [9, 3, 4, 8], [1, 2, 3]]
    circuit = cna.discover(cached, ids[:1], ids[1:], k=5, universal=None)
    arms = cna.Intervention.scale(circuit, [1.0, 0.0, -2.0])
    answers = [[11, 12], [13], [14, 15, 16]]
    kl, likelihood = cached.core.divergence(ids, answers, intervention=arms)
    again = whole.core.divergence(ids, answers, intervention=arms)
    assert kl[1:].min() > 1e-4 and kl[0].abs().max() < 1e-6
    assert close(again[0], kl, 1e-4) and close(again[1], likelihood, 1e-4)


def rope(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    parameters = {"rope_type": kind, "rope_theta": 10000.0, **more}
    sizes = {**SMALL, **HEADS, **IDS, "max_position_embeddings": 64}
    if kind == "longrope":
        sizes["original_max_position_embeddings"] = 16
        return transformers.Phi3ForCausalLM(
            transformers.Phi3Config(**sizes, rope_parameters=parameters)
        ).eval()
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, rope_parameters=parameters)
    ).eval()


def test_longrope_goes_past_its_original_length_without_a_cache() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    hf = rope("longrope", original_max_position_embeddings=16, **factors)
    assert cna.live(copy.deepcopy(hf), None).core.max_positions == 16
    model = cna.live(hf, None, cache=False)
    assert model.core.max_positions == 64
    ids = [list(range(3, 3 + n)) for n in (5, 15, 16, 17, 40)]
    assert close(model.logits(ids), last_logits(hf, ids), 1e-6)
    downs = down_projections(hf)
    assert close(model.record(ids), recordings(hf, downs, ids), 1e-6)
    answers = model.generate(ids[1:3], max_new_tokens=4, return_tokens=True)  # over the edge
    assert answers == [greedy(hf, p, 4, IDS["eos_token_id"]) for p in ids[1:3]]


def test_dynamic_rope_stays_within_its_original_length() -> None:
    hf = rope("dynamic", factor=2.0, original_max_position_embeddings=16)
    for cache in (True, False):
        assert cna.live(copy.deepcopy(hf), None, cache=cache).core.max_positions == 16
