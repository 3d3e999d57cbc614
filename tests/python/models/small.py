"""Every causal language model type of the installed transformers, built small with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MOST = 20_000_000  # parameters: what shrinks to no less is not built

_GROUPS: list[tuple[int, str]] = [
    (64, "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim lru_width embed_dim"),
    (64, "out_hidden_size projection_dim output_proj_dims input_proj_size encoder_hidden_size"),
    (64, "moe_hidden_size moe_latent_size dim_model vision_hidden_size audio_hidden_size"),
    (96, "intermediate_size ffn_dim n_inner d_ff d_inner ffn_hidden_size dim_ff encoder_ffn_dim"),
    (96, "decoder_ffn_dim intermediate_size_mlp dense_intermediate_size feed_forward_size dff"),
    (96, "shared_intermediate_size mlp_hidden_size block_ff_dim dense_ffn_hidden_size"),
    (
        24,
        "moe_intermediate_size expert_intermediate_size moe_ffn_hidden_size expert_ffn_hidden_size",
    ),
    (40, "shared_expert_intermediate_size moe_shared_expert_intermediate_size"),
    (4, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth"),
    (4, "num_decoder_layers num_encoder_layers num_attention_heads n_head n_heads num_heads"),
    (4, "encoder_attention_heads decoder_attention_heads num_experts num_local_experts"),
    (4, "n_routed_experts mamba_num_heads mamba_n_heads linear_num_value_heads moe_num_experts"),
    (2, "num_key_value_heads num_kv_heads n_head_kv num_experts_per_tok moe_top_k top_k_experts"),
    (2, "linear_num_key_heads moe_k experts_per_token num_global_key_value_heads"),
    (2, "num_encoder_layers_vision n_shared_experts num_shared_experts moe_num_shared_experts"),
    (1, "n_group topk_group first_k_dense_replace n_groups mamba_n_groups moe_layer_start_index"),
    (16, "head_dim linear_key_head_dim linear_value_head_dim mamba_head_dim mamba_d_head"),
    (16, "kv_lora_rank q_lora_rank kv_channels attention_head_dim global_head_dim d_kv"),
    (16, "hidden_size_per_layer_input index_head_dim swa_head_dim image_size"),
    (8, "qk_nope_head_dim qk_rope_head_dim v_head_dim mamba_d_state ssm_state_size state_size"),
    (8, "patch_size rotary_dim laurel_rank index_n_heads index_topk"),
    (320, "vocab_size vocab_size_per_layer_input text_vocab_size"),
    (512, "max_position_embeddings n_positions max_seq_len max_target_positions n_ctx"),
    (6, "sliding_window window_size attention_window_size swa_window_size local_attention"),
    (32, "expand_dim time_step_rank mamba_dt_rank qk_head_dim chunk_size mamba_chunk_size"),
    (16, "query_pre_attn_scalar"),
]
NUMBERS = {name: value for value, names in _GROUPS for name in names.split()}
# Where a hybrid keeps attention: its cache wants a layer of it.
EVERY_SECOND = {"attn_layer_indices": [1, 3], "attn_layer_period": 2, "attn_layer_offset": 1}
EVERY_SECOND |= {"full_attn_idxs": [1, 3], "layer_group_size": 2, "expert_layer_period": 2}
IDS = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}

ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Sizes that hang together in one way only; tried after the plain shrinking, in this order.
VARIANTS: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 4},
    {"head_dim": None},
    {"head_dim": 8, "num_key_value_heads": 4},
    {"sliding_window": None},
    {"hidden_size": 128, "head_dim": 32},
    {"mamba_num_heads": 8, "mamba_n_heads": 8},
    {"num_hidden_layers": 6},
    {"rope_parameters": ROPE},
    {"rope_parameters": ROPE, "num_key_value_heads": 4, "head_dim": 16},
    {"q_lora_rank": None, "num_key_value_heads": 4, "head_dim": 8},
    {"mamba_expand": 2, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_ssm": 128},
    {"expand": 2, "num_heads": 8, "head_dim": 16},
    {"kv_lora_rank": 16, "qk_rope_head_dim": 16, "head_dim": 16},
    {"qk_rope_head_dim": 8, "head_dim": 8, "num_key_value_heads": 4},
    {"num_hidden_layers": 8},
]


class NotBuilt(Exception):
    """Why a type was not built."""


def types() -> list[str]:
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _smaller(config: Any, variant: dict[str, Any]) -> dict[str, Any]:
    """Arguments that make a configuration like `config` small."""
    out: dict[str, Any] = {}
    numbers = NUMBERS | variant
    layers = numbers["num_hidden_layers"] or 4
    for name, value in config.to_dict().items():
        try:
            inner = getattr(config, name, None)
        except Exception:  # one of each layer
            inner = value
        if name in variant:
            out[name] = variant[name]
        elif isinstance(inner, transformers.PreTrainedConfig):
            out[name] = _smaller(inner, variant) | {"model_type": inner.model_type}
        elif name in IDS and value is not None:
            out[name] = IDS[name]
        elif name in numbers and value is not None and not isinstance(value, (list, dict, bool)):
            out[name] = numbers[name]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            out[name] = 319
        elif isinstance(value, list) and len(value) >= layers and "layer" in name:
            kinds = sorted(set(map(str, value)), key=list(map(str, value)).index)
            mixed = all(isinstance(v, str) for v in value) and set(value[:layers]) != set(value)
            out[name] = [kinds[i % len(kinds)] for i in range(layers)] if mixed else value[:layers]
        elif name in EVERY_SECOND and value is not None:
            out[name] = EVERY_SECOND[name]
    return out


def configurations(kind: str) -> Iterator[Any]:
    """Small configurations of a type; those that its class refuses are left out."""
    made = transformers.CONFIG_MAPPING[kind]
    errors = []
    for variant in VARIANTS:
        try:
            default = made()
            config = made(**_smaller(default, variant))
            config.is_decoder = True if hasattr(config, "is_decoder") else None
            yield config
        except Exception as error:
            errors.append(f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    if len(errors) == len(VARIANTS):
        raise NotBuilt(errors[0])


def _run(hf: Any) -> None:
    ids = torch.arange(3, 16)[None]
    with torch.no_grad():
        logits = hf(input_ids=ids).logits
    if logits.dim() != 3 or not bool(logits.isfinite().all()):
        raise NotBuilt(f"its own logits are not finite, or {list(logits.shape)}")


def build(kind: str) -> Any:
    """A small random model of a type that runs plainly.

    Raises NotBuilt with the first reason.
    """
    first = ""
    auto = transformers.AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for config in configurations(kind):
            try:
                with torch.device("meta"):
                    count = sum(p.numel() for p in auto.from_config(config).parameters())
                if count > MOST:
                    raise NotBuilt(f"{count:,} parameters")
                torch.manual_seed(0)
                hf = auto.from_config(config).float().eval()
                for parameter in hf.parameters():  # differences must show
                    parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
                _run(hf)
            except Exception as error:
                reason = str(error).splitlines()[0][:120] if str(error) else ""
                first = first or f"{type(error).__name__}: {reason}"
                continue
            return hf
    raise NotBuilt(first)
