"""The step of a live model: with cached keys and values where that is proven exact, else without."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import windows
from .hf_model import buffers_like, key_value_layers
from .layouts import Layouts, choose_masks
from .placement import input_device
from .plain import Plain, options, whole
from .step import CausalStep
from .windows import Masks


class Inputs(NamedTuple):
    """What a host gives to one step, see `CausalStep`; `keep`: the places of the logits."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    keep: Tensor
    places: Tensor
    cache: list[Tensor]

    def wanted(self) -> int:
        """How many of the last tokens hold all places where logits are wanted."""
        return self.ids.shape[1] - int(self.keep.min())

    def kept(self, logits: Tensor) -> Tensor:
        """Logits of the last tokens [rows, tokens, vocab] at the places that are wanted."""
        return logits[:, (self.keep - self.ids.shape[1] + logits.shape[1]).to(logits.device)]


class CachedStep:
    """A `CausalStep` whose layers may lie on several devices.

    Attributes:
        cache: (heads, key dim, value dim) of each layer, as this process holds it.
        devices: of each layer's keys and values; empty if all lie where the tokens go.
    """

    def __init__(self, hf_model: Any, layers: list[Any], masks: Masks) -> None:
        self.step = CausalStep(hf_model, masks)
        self.cache = [(k.keys.shape[1], k.keys.shape[3], k.values.shape[3]) for k in layers]
        devices = [layer.keys.device for layer in layers]
        self.devices = devices if set(devices) != {input_device(hf_model)} else []

    def __call__(self, given: Inputs) -> Tensor:
        ids, mask, positions, keep, places, cache = given
        if not self.devices:
            return self.step(ids, mask, positions, keep, places, *cache)
        # The head may lie on another device than `keep`: a number of places goes everywhere.
        return given.kept(self.step(ids, mask, positions, given.wanted(), places, *cache))


class WholeStep:
    """Runs whole prompts, one row at a time: exact for every model."""

    cache: tuple[()] = ()
    devices: tuple[()] = ()

    def __init__(self, hf_model: Any) -> None:
        self.hf_model = hf_model

    def __call__(self, given: Inputs) -> Tensor:
        few = options(self.hf_model, use_cache=False, logits_to_keep=given.wanted())
        return given.kept(whole(self.hf_model(input_ids=given.ids, return_dict=True, **few).logits))


def choose_step(
    hf_model: Any, use_cache: bool, plain: Plain
) -> tuple[CachedStep | WholeStep, Layouts]:
    """The cached step if allowed and the plain module in one layout at least, else the whole one."""
    if use_cache and not windows.unknown_kinds(hf_model):
        ids = torch.tensor([plain.prompts[-1]], device=plain.device)
        if layers := key_value_layers(hf_model, ids):
            masks, found = choose_masks(
                hf_model,
                lambda m: _flat(CachedStep(hf_model, layers, m)),
                plain,
                buffers_like(layers),
            )
            if masks is not None and isinstance(found, Layouts):
                return CachedStep(hf_model, layers, masks), found
    return WholeStep(hf_model), Layouts(batch=False, padding=False, share_prefix=False)


def _flat(step: CachedStep) -> Any:
    def run(ids: Tensor, mask: Tensor, positions: Tensor, keep: Tensor, *rest: Tensor) -> Tensor:
        return step(Inputs(ids, mask, positions, keep, rest[0], list(rest[1:])))

    return run
