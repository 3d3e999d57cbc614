"""A live host: a Hugging Face module run as it is, with the same taps through plain hooks.

What cannot be traced still works here: models spread over devices (`device_map`), offloaded, quantised
or shared by processes (tensor parallelism), and layers that keep other state than keys and values. The
hooks call the same C++ taps, so recordings and steering follow the same rules.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from .. import _core
from ..base.errors import first_line
from .generation_settings import generation_settings
from .hf_model import check_exportable, eos_ids, max_positions
from .layouts import Layouts, runs_agree, settle
from .live_step import WholeStep, choose_step
from .model import Model
from .placement import input_device, is_dtensor, ranks, require_movable, safe_hash
from .plain import Plain, evaluating
from .readout import readout_of
from .shard import Shard, shard_of
from .sites import (
    blocks_of,
    down_projections,
    layer_numbers,
    layer_widths,
    neurons_of,
    running_sites,
    sites_of,
)
from .weights import weights_mark


class _Pass(threading.local):
    """The pass under way on this thread; the owner's own calls on other threads have none."""

    taps: _core.Taps | None = None
    rows = tokens = 0


class _LiveStep:
    """Runs one step with hooks that hand activations to the taps of the pass under way."""

    def __init__(
        self, hf_model: Any, downs: list[tuple[str, nn.Module]], step: Any, residual: bool
    ) -> None:
        self.hf_model = hf_model
        self.widths = layer_widths(downs)
        self.step = step
        self.downs = downs
        self.hidden = int(hf_model.config.get_text_config().hidden_size)
        layers = layer_numbers([name for name, _ in downs])
        self.under_way = _Pass()
        self.hooks: list[Any] = []
        for layer, (name, module) in zip(layers, downs, strict=True):
            shard = shard_of(name, module, self.widths[layer])
            self.hooks += [
                module.register_forward_pre_hook(self._before(layer, shard)),
                module.register_forward_hook(self._after("mlp_output", layer)),
            ]
        for layer, block in enumerate(blocks_of(hf_model, downs) if residual else []):
            self.hooks.append(block.register_forward_hook(self._after("residual", layer)))

    def leave(self) -> None:
        """Takes the hooks off the module."""
        for hook in self.hooks:
            hook.remove()

    def _tap(self, x: Tensor, site: str, layer: int, shard: Shard | None = None) -> Tensor:
        """x through the tap; [rows, tokens, features], [rows * tokens, features] or one's part."""
        if is_dtensor(x):
            return self._tap_part(x, site, layer, shard)
        taps, rows, tokens = self.under_way.taps, self.under_way.rows, self.under_way.tokens
        assert taps is not None
        features = self.widths[layer] if site == "neuron" else self.hidden
        if shard is not None and x.shape[-1] == shard.size:
            features = shard.size
        else:
            shard = None
        if x.shape[-1] != features or x.numel() != rows * tokens * features:
            raise RuntimeError(
                f"live: expected the {site} activations of layer {layer} as "
                f"{[rows, tokens, features]}, got {list(x.shape)}; this way of splitting a "
                "model is not known, load it with its own tensor-parallel plan or a device_map"
            )
        slot = taps.slot(site, layer)
        shaped = x if x.dim() == 3 else x.reshape(rows, tokens, features)
        if shard is None:
            out = taps.apply(shaped, slot)
        else:
            out = taps.apply(shaped, slot, shard.first, shard.gather)
        return x if out is shaped else out.reshape(x.shape)

    def _tap_part(self, x: Any, site: str, layer: int, shard: Shard | None) -> Tensor:
        from torch.distributed.tensor import DTensor

        if any(place.is_partial() for place in x.placements):
            raise RuntimeError(
                f"live: expected the {site} activations of layer {layer} whole or split by features, "
                f"got {', '.join(map(str, x.placements))}; load the model with its own tensor-parallel "
                "plan"
            )
        out = self._tap(x.to_local(), site, layer, shard)
        return DTensor.from_local(
            out, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride()
        )

    def _before(self, layer: int, shard: Shard | None) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self.under_way.taps is None:
                return None
            return (self._tap(args[0], "neuron", layer, shard), *args[1:])

        return hook

    def _after(self, site: str, layer: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            if self.under_way.taps is None:
                return None
            if not isinstance(output, (tuple, list)):
                return self._tap(output, site, layer)
            return type(output)([self._tap(output[0], site, layer), *output[1:]])

        return hook

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        keep: Tensor,
        cache: list[Tensor],
        taps: _core.Taps,
    ) -> Tensor:
        self.under_way.taps = taps
        self.under_way.rows, self.under_way.tokens = ids.shape
        try:
            with torch.inference_mode(), evaluating(self.hf_model):
                return self.step(ids, mask, positions, keep, cache)
        finally:
            self.under_way.taps = None

    def move(self, device: str) -> None:
        require_movable(self.hf_model)
        try:
            self.hf_model.to(device)
        except (RuntimeError, ValueError) as error:  # some quantised weights stay where they are
            raise ValueError(
                f"Model.to: expected a model that can move to {device}, got: "
                f"{first_line(error)}; load it again where it should run"
            ) from None


def live_module(
    hf_model: Any,
    tokenizer: Any,
    *,
    model_id: str | None = None,
    pattern: str = "",
    cache: bool = True,
    **chat: Any,
) -> Model:
    """A `Model` over a Hugging Face module: as `cna.live`, which says more, without names."""
    check_exportable(hf_model, "live")
    if ranks(hf_model) > 1:  # before a pass: a split that is not known may not even run
        split = down_projections(hf_model, pattern)
        for name, module in split:
            shard_of(name, module, neurons_of(name, module))
    with evaluating(hf_model):
        downs, plain = running_sites(hf_model, pattern, "live")
        _require_whole_logits(hf_model, plain)
        choice, found = choose_step(hf_model, cache, plain)
        step = _LiveStep(hf_model, downs, choice, plain.streams)
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
        "hidden_size": int(config.get_text_config().hidden_size),
        "vocab_size": int(config.get_text_config().vocab_size),
        "dtype": hf_model.dtype,
        "device": str(input_device(hf_model)),
        "eos_token_ids": eos_ids(hf_model),
        "neuron_sites": sites_of(downs),
    }


def _open(step: _LiveStep, about: dict[str, Any], plain: Plain, found: Layouts) -> _core.Model:
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
    last = Plain(step.hf_model, plain.prompts[-1:], step.downs, keep=1)
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
