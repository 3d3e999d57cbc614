"""What cna asks of a Hugging Face model before it exports it or runs it live."""

from __future__ import annotations

from typing import Any

import torch

from .cache_name import cache_of


def check_exportable(hf_model: Any, function: str = "export") -> None:
    """Raises ValueError for models that are no dense decoder-only causal language model."""
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
    text = config.get_text_config()
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if (getattr(text, key, None) or 0) > 1:
            raise ValueError(
                f"{function}: expected dense MLPs, got {name} (mixture of {getattr(text, key)} "
                "experts), whose layers have no single down projection; use a dense model"
            )
    if not hasattr(hf_model, "lm_head") and hf_model.get_output_embeddings() is None:
        raise ValueError(
            f"{function}: expected a model with a language-model head, got {name}; load it with "
            "AutoModelForCausalLM"
        )


def max_positions(config: Any, whole_prompts: bool = False) -> int:
    """Longest prompt plus answer for which the step is exact; 0 if unbounded.

    `whole_prompts`: each step sees all tokens, so "longrope" may change its frequencies between steps.
    Those of "dynamic" depend on earlier prompts too, and stay limited.
    """
    text = config.get_text_config()
    longest = int(getattr(text, "max_position_embeddings", 0) or 0)
    rope = getattr(text, "rope_parameters", None) or {}
    nested = [r for r in rope.values() if isinstance(r, dict)] or [rope]
    inexact = ("dynamic",) if whole_prompts else ("dynamic", "longrope")
    for parameters in nested:
        if parameters.get("rope_type") in inexact:
            # Beyond the original length these change all frequencies with the length.
            original = parameters.get("original_max_position_embeddings") or getattr(
                text, "original_max_position_embeddings", None
            )
            longest = min(longest, int(original or longest))
    return longest


def eos_ids(hf_model: Any) -> list[int]:
    """Tokens that end an answer: the generation configuration's, else the model's."""
    eos = getattr(hf_model.generation_config, "eos_token_id", None)
    eos = hf_model.config.get_text_config().eos_token_id if eos is None else eos
    return [] if eos is None else [int(e) for e in ([eos] if isinstance(eos, int) else eos)]


def cache_shapes(hf_model: Any) -> list[list[int]]:
    """[heads, key dim, value dim] of each layer's cache, read off one short step."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=hf_model.device)
    with torch.no_grad():
        cache = cache_of(hf_model(input_ids=ids, use_cache=True, return_dict=True))
    return [
        [layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]] for layer in cache.layers
    ]
