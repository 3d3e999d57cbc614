"""What cna asks of a Hugging Face model before it exports it or runs it live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .blocks import block_name
from .cache_name import cache_of
from .experts import holds_experts
from .plain import options


def check_decoder(hf_model: Any, function: str) -> None:
    """Raises ValueError for models that are no decoder-only causal language model."""
    config = getattr(hf_model, "config", None)
    name = type(hf_model).__name__
    if config is None or not hasattr(hf_model, "generate"):
        raise ValueError(
            f"{function}: expected a transformers causal language model, got {name}; load one with "
            "AutoModelForCausalLM.from_pretrained"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{function}: expected a decoder-only model, got {name} (encoder-decoder); such models have "
            "no single residual stream of one prompt"
        )
    if not hasattr(hf_model, "lm_head") and hf_model.get_output_embeddings() is None:
        raise ValueError(
            f"{function}: expected a model with a language-model head, got {name}; load it with "
            "AutoModelForCausalLM"
        )


def _experts(hf_model: Any) -> int:
    """Experts of a mixture; 0 for dense models, also those whose configuration has a field for them."""
    text = hf_model.config.get_text_config()
    keys = ("num_experts", "num_local_experts", "n_routed_experts")
    stated = max(int(getattr(text, key, None) or 0) for key in keys)
    names = (name.rpartition(".")[2] for name, _ in hf_model.named_modules())
    return stated if stated > 1 and any("expert" in n or "router" in n for n in names) else 0


def require_known_experts(hf_model: Any, downs: Any, function: str = "live") -> None:
    """Raises ValueError where a block routes tokens to experts that are not among `downs`."""
    if not _experts(hf_model):
        return
    known = {block_name(name) for name, module in downs if holds_experts(module)}
    for name, module in hf_model.named_modules():
        leaf = name.rpartition(".")[2]
        if ("expert" in leaf or "router" in leaf) and block_name(name) not in known:
            if any(block_name(name) == block_name(down) for down, _ in downs):
                raise ValueError(
                    f"{function}: expected experts of transformers' experts interface, got "
                    f"{type(module).__name__} at '{name}'; this mixture is not known"
                )


def max_positions(config: Any, whole_prompts: bool = False) -> int:
    """Longest prompt plus answer for which the step is exact; 0 if unbounded.

    `whole_prompts`: each step sees all tokens, so "longrope" may change its frequencies between steps.
    Those of "dynamic" depend on earlier prompts too, and stay limited. Scalings of a fixed factor
    ("linear", "yarn") reach to the scaled length, whether the configuration names that or the original.
    """
    text = config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")  # MPT's
    longest = int(next((n for n in (getattr(text, name, 0) for name in names) if n), 0))
    rope = getattr(text, "rope_parameters", None) or {}
    nested = [r for r in rope.values() if isinstance(r, dict)] or [rope]
    inexact = ("dynamic",) if whole_prompts else ("dynamic", "longrope")
    reach = []
    for parameters in nested:
        kind = parameters.get("rope_type")
        original = parameters.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        if kind in inexact:
            # Beyond the original length these change all frequencies with the length.
            reach.append(min(longest, int(original or longest)))
        elif kind in ("linear", "yarn"):
            scaled = float(parameters.get("factor") or 1.0) * int(original or longest)
            reach.append(max(longest, int(scaled)))
        else:
            reach.append(longest)
    return min(reach)


def eos_ids(hf_model: Any) -> list[int]:
    """Tokens that end an answer: the generation configuration's, else the model's."""
    eos = getattr(hf_model.generation_config, "eos_token_id", None)
    eos = getattr(hf_model.config.get_text_config(), "eos_token_id", None) if eos is None else eos
    return [] if eos is None else [int(e) for e in ([eos] if isinstance(eos, int) else eos)]


def key_value_layers(hf_model: Any, ids: Tensor) -> list[Any]:
    """The layers of a plain pass's cache; none if one keeps anything but keys and values."""
    with torch.no_grad():
        out = hf_model(input_ids=ids, return_dict=True, **options(hf_model, use_cache=True))
    layers = getattr(cache_of(out), "layers", None) or []
    for layer in layers:
        pair = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not all(isinstance(t, Tensor) and t.dim() == 4 for t in pair):
            return []
    return list(layers)


def buffers_like(layers: list[Any]) -> Callable[[int, int], list[Tensor]]:
    """(rows, tokens) -> empty keys and values [rows, heads, tokens, dim] of each of these layers."""
    held = [t for layer in layers for t in (layer.keys, layer.values)]

    def buffers(rows: int, tokens: int) -> list[Tensor]:
        return [t.new_zeros(rows, t.shape[1], tokens, t.shape[3]) for t in held]

    return buffers
