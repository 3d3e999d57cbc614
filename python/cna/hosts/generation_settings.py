"""How a checkpoint wants to be sampled: what `Model.generate` can follow, and what it leaves out."""

from __future__ import annotations

import warnings
from typing import Any

# Those of `Model.generate` itself; the others of a checkpoint have no counterpart here.
_FOLLOWED = ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens")
_OF_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"}
_OF_SAMPLING |= {"epsilon_cutoff", "eta_cutoff"}
# Values that change nothing, and settings that say nothing of the text.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("temperature", "top_p", "typical_p", "guidance_scale"), (1.0,)),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), (1.0,)),
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), (1,)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (0,)),
    **dict.fromkeys(("min_length", "min_new_tokens", "epsilon_cutoff", "eta_cutoff"), (0,)),
}
_SILENT = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length"}
_SILENT |= {"transformers_version", "_from_model_config", "return_dict_in_generate", "use_cache"}
_SILENT |= {"early_stopping", "length_penalty", "diversity_penalty", "is_assistant", "use_mtp"}
_SILENT |= {"num_assistant_tokens", "num_assistant_tokens_schedule", "speculation_type"}
_SILENT |= {"max_matching_ngram_size", "target_lookbehind", "disable_compile", "low_memory"}
_SILENT |= {"prefill_chunk_size", "renormalize_logits", "remove_invalid_values"}
_STARTS = "output_ assistant_ prompt_lookup_ cache_ max_cache compile_ continuous_batching"
_SILENT_STARTS = tuple(_STARTS.split())


def generation_settings(hf_model: Any) -> dict[str, Any]:
    """What the checkpoint's generation configuration says of its answers; empty if nothing."""
    config = getattr(hf_model, "generation_config", None)
    said = config.to_dict() if config is not None else {}
    out = {
        name: value
        for name, value in said.items()
        if value not in (None, False, [], {}, *_NEUTRAL.get(name, ()))
        and name not in _SILENT
        and not name.startswith(_SILENT_STARTS)
    }
    if not out.get("do_sample"):
        out = {name: value for name, value in out.items() if name not in _OF_SAMPLING}
    elif said.get("top_k") is None:
        out["top_k"] = 50  # transformers' own, where the checkpoint names none
    return out


def followed(settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Model.generate` that a checkpoint's settings ask for."""
    out: dict[str, Any] = {"temperature": 0.0}
    if settings.get("do_sample"):
        out = {"temperature": float(settings.get("temperature", 1.0))}
        out |= {"top_k": int(settings.get("top_k", 0)), "top_p": float(settings.get("top_p", 1.0))}
    if "max_new_tokens" in settings:
        out["max_new_tokens"] = int(settings["max_new_tokens"])
    return out


def left_out(settings: dict[str, Any], following: bool = False) -> dict[str, Any]:
    """Settings that answers do not follow: all, or with `following` those without a counterpart."""
    names = _FOLLOWED if following else ("max_new_tokens",)
    return {name: value for name, value in settings.items() if name not in names}


def asked(which: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Model.generate` with settings=None or "checkpoint".

    Raises ValueError for another; warns of what the checkpoint says and answers do not follow.
    """
    if which is None:
        return {}
    if which != "checkpoint":
        raise ValueError(
            f"generate: expected settings=None or 'checkpoint', got {which!r}; choose one"
        )
    if without := left_out(settings, following=True):
        warnings.warn(
            f"generate: the checkpoint's {', '.join(without)} is not followed", stacklevel=3
        )
    return followed(settings)
