"""Small random mixtures of experts of several types."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from conftest import IDS, LONG, SMALL

OF_MIXTURES = {"moe_intermediate_size": 24, "num_experts": 4, "num_local_experts": 4}
OF_MIXTURES |= {"n_routed_experts": 4, "num_experts_per_tok": 2}
OF_MIXTURES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
DEEPSEEK = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 2}
DEEPSEEK |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 16}
DEEPSEEK |= {"num_key_value_heads": 4, "q_lora_rank": 16}
# What is peculiar: shared experts, biases and interleaved gates, a dense layer before the others, scaled
# inputs, experts in one sorted tensor, no gate, a clamp, shared experts in one tensor.
KINDS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "mixtral": {},
    "qwen2_moe": {"shared_expert_intermediate_size": 40},
    "gpt_oss": {"sliding_window": 6},
    "deepseek_v3": DEEPSEEK,
    "granitemoeshared": {"shared_intermediate_size": 40},
    "llama4_text": {"intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
    "jetmoe": {"kv_channels": 8, "num_experts_per_tok": 2},
    "inkling_text": {"n_shared_experts": 2},
}
RECENT = {"inkling_text"}


def mixture(kind: str, **more: Any) -> Any:
    """A small random model of a type of transformers."""
    torch.manual_seed(0)
    settings = {**SMALL, **IDS, **LONG, **OF_MIXTURES, **KINDS[kind], **more}
    config = transformers.CONFIG_MAPPING[kind](**settings)
    hf = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in hf.parameters():
        parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return hf
