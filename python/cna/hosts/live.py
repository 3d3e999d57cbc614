"""A live host: a Hugging Face module run as it is, with the same taps through plain hooks.

What cannot be traced still works here: models spread over devices (`device_map`), offloaded, quantised
or shared by processes (tensor parallelism), and layers that keep other state than keys and values. The
hooks call the same C++ taps, so recordings and steering follow the same rules.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from torch import nn

from .. import _core
from .experts import experts_at, holds_experts
from .generation_settings import generation_settings
from .hf_model import check_decoder, eos_ids, max_positions, require_known_experts
from .layouts import Layouts, runs_agree, settle
from .live_hooks import LiveStep
from .live_step import WholeStep, choose_step
from .model import Model
from .placement import input_device, ranks, safe_hash
from .plain import Plain, evaluating
from .readout import readout_of
from .shard import shard_of
from .sites import (
    down_projections,
    layer_experts,
    layer_widths,
    neurons_of,
    running_sites,
    sites_of,
)
from .weights import weights_mark


def live_module(
    hf_model: Any,
    tokenizer: Any,
    *,
    model_id: str | None = None,
    pattern: str = "",
    cache: bool = True,
    weighted: bool = False,
    **chat: Any,
) -> Model:
    """A `Model` over a Hugging Face module: as `cna.live`, which says more, without names."""
    check_decoder(hf_model, "live")
    if ranks(hf_model) > 1:  # before a pass: a split that is not known may not even run
        split = down_projections(hf_model, pattern)
        for name, module in split:
            if not holds_experts(module):
                shard_of(name, module, neurons_of(name, module))
    with evaluating(hf_model):
        downs, plain = running_sites(hf_model, pattern, "live", weighted)
        require_known_experts(hf_model, downs)
        _require_weights_that_move(downs, weighted)
        _require_whole_logits(hf_model, plain)
        choice, found = choose_step(hf_model, cache, plain)
        step = LiveStep(hf_model, downs, choice, plain.streams, weighted)
        try:
            about = _about(hf_model, model_id, downs) | {"residual_sites": plain.streams}
            core = _open(step, about, plain, found)
        except BaseException:
            step.leave()
            raise
    model = Model(core, tokenizer, **chat)
    model.generation_settings = generation_settings(hf_model)
    model.ranks = ranks(hf_model)
    model.weights_mark = "" if ranks(hf_model) > 1 else weights_mark(hf_model)
    weakref.finalize(model.core, step.leave)
    return model


def _require_weights_that_move(downs: list[tuple[str, nn.Module]], weighted: bool) -> None:
    if not weighted:
        return
    mixtures = [experts for name, module in downs if (experts := experts_at(name, module))]
    if not mixtures:
        raise ValueError(
            "live: expected a mixture of experts with weighted=True, got dense layers; leave it out"
        )
    for experts in mixtures:
        experts.require_weighted()


def _require_whole_logits(hf_model: Any, plain: Plain) -> None:
    got = plain.logits[0].shape[-1]
    tokens = getattr(hf_model.get_output_embeddings(), "out_features", got)
    if got != tokens:
        raise ValueError(
            f"live: expected logits of {tokens} tokens, got {got}; let the tensor-parallel plan gather "
            "the head's output"
        )


def _about(
    hf_model: Any, model_id: str | None, downs: list[tuple[str, nn.Module]]
) -> dict[str, Any]:
    """What the host is told of the model, whichever step runs it."""
    config = hf_model.config
    return {
        "model_id": model_id or config.name_or_path or type(hf_model).__name__,
        "weights_hash": _weights_hash(hf_model),
        "widths": layer_widths(downs),
        "experts": layer_experts(downs),
        "hidden_size": int(config.get_text_config().hidden_size),
        "vocab_size": int(config.get_text_config().vocab_size),
        "dtype": hf_model.dtype,
        "device": str(input_device(hf_model)),
        "eos_token_ids": eos_ids(hf_model),
        "neuron_sites": sites_of(downs),
    }


def _open(step: LiveStep, about: dict[str, Any], plain: Plain, found: Layouts) -> _core.Model:
    """The host over a step, held against plain passes in every layout that it will use."""

    def make(layouts: Layouts) -> _core.Model:
        whole = not step.step.cache
        info = about | {
            "max_positions": max_positions(step.hf_model.config, whole_prompts=whole),
            "cache": list(step.step.cache),
            "cache_devices": [str(device) for device in step.step.devices],
            "layouts": dataclasses.asdict(layouts),
        }
        known = readout_of(step.hf_model, step.downs)
        weights = None if known is None else (known.write, known.parts)
        return _core.Model.live(info, step.forward, step.move, weights)

    if step.step.cache:
        core = settle(make, plain, found)
        if core is not None:
            return core
        step.step = WholeStep(step.hf_model)
    core = make(Layouts(batch=False, padding=False, share_prefix=False))
    # The head sees the last token alone, as in each of the host's steps.
    last = Plain(step.hf_model, plain.prompts[-1:], step.downs, keep=1, weighted=step.weighted)
    if not runs_agree(core, last, [0], share_prefix=False):
        raise ValueError(
            f"live: expected the numbers of a plain pass, got others from {about['model_id']}, which is "
            "run as it is; a model whose numbers change from pass to pass cannot be steered"
        )
    return core


def _weights_hash(hf_model: Any) -> str:
    """The commit, with the quantiser's name, or a hash of the weights; empty if neither is known."""
    commit = getattr(hf_model.config, "_commit_hash", None)
    if not commit:
        return safe_hash(hf_model)
    method = getattr(getattr(hf_model, "hf_quantizer", None), "quantization_config", None)
    name = getattr(method, "quant_method", None)
    return commit if name is None else f"{commit} {getattr(name, 'value', name)}"
