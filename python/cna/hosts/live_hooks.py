"""The hooks of a live model: they hand activations to the taps of the pass under way."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import torch
from torch import Tensor, nn

from .. import _core
from ..base.errors import first_line
from .experts import Experts, experts_at
from .live_step import Inputs
from .placement import is_dtensor, require_movable
from .plain import evaluating
from .shard import Shard, shard_of
from .sites import (
    Downs,
    blocks_of,
    first_neurons,
    layer_numbers,
    layer_widths,
    mlp_outputs,
    neurons_of,
)
from .tapped_forward import TappedForward


class _Pass(threading.local):
    """The pass under way on this thread; the owner's own calls on other threads have none."""

    taps: _core.Taps | None = None
    rows = tokens = 0


@dataclasses.dataclass(frozen=True)
class _Part:
    """Neurons `first` to `first + size` of a layer that has several modules or experts.

    `idle`: [rows, tokens, 1], the tokens that an expert does not see.
    """

    first: int
    size: int
    idle: Tensor | None = None


class LiveStep:
    """Runs one step with hooks that hand activations to the taps of the pass under way.

    Args:
        downs: what is tapped, see `sites`; step: the module's own step.
        residual: whether each block's output is the residual stream.
        weighted: neurons of experts behind the routing weight.
    """

    def __init__(
        self, hf_model: Any, downs: Downs, step: Any, residual: bool, weighted: bool
    ) -> None:
        self.hf_model = hf_model
        self.widths = layer_widths(downs)
        self.step = step
        self.downs = list(downs)
        self.weighted = weighted
        self.hidden = int(hf_model.config.get_text_config().hidden_size)
        self.under_way = _Pass()
        self.hooks: list[Any] = []
        self.forwards: list[TappedForward] = []
        layers = layer_numbers(downs)
        for layer, first, (name, module) in zip(layers, first_neurons(downs), downs, strict=True):
            experts = experts_at(name, module)
            if experts is not None:
                self._replace(experts, layer, first)
                continue
            shard: Shard | _Part | None = shard_of(name, module, self.widths[layer])
            if layers.count(layer) > 1:
                shard = _Part(first, neurons_of(name, module))
            self.hooks.append(module.register_forward_pre_hook(self._before(layer, shard)))
        outputs = mlp_outputs(hf_model, downs)
        for layer, module in outputs.items():
            self.hooks.append(module.register_forward_hook(self._after("mlp_output", layer)))
        self.without_output = sorted(set(layers) - set(outputs))
        for layer, block in enumerate(blocks_of(hf_model, downs) if residual else []):
            self.hooks.append(block.register_forward_hook(self._after("residual", layer)))

    def leave(self) -> None:
        """Takes the hooks off the module."""
        for hook in self.hooks:
            hook.remove()
        for forward in self.forwards:
            forward.leave(self)
        self.forwards = []

    # --- experts ----------------------------------------------------------------------------

    def _replace(self, experts: Experts, layer: int, first: int) -> None:
        """The module's forward with taps in it, for passes of this host; others run its own."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            rows, tokens = self.under_way.rows, self.under_way.tokens

            def tap(h: Tensor, expert: int, at: Tensor) -> Tensor:
                idle = torch.ones(rows * tokens, dtype=torch.bool, device=h.device)
                idle[at] = False
                start = first + expert * experts.width
                part = _Part(start, experts.width, idle.view(rows, tokens, 1))
                every = h.new_zeros(rows * tokens, experts.width)
                every[at] = h
                out = self._tap(every, "neuron", layer, part)
                return h if out is every else out[at]

            return experts.run(tap, self.weighted, *args, **kwargs)

        self.forwards.append(TappedForward.on(experts.module).join(self, forward))

    # --- hooks ------------------------------------------------------------------------------

    def _tap(self, x: Tensor, site: str, layer: int, shard: Shard | _Part | None = None) -> Tensor:
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
        elif isinstance(shard, _Part):
            out = taps.apply(
                shaped, slot, shard.first, features=self.widths[layer], idle=shard.idle
            )
        else:
            out = taps.apply(shaped, slot, shard.first, shard.gather)
        return x if out is shaped else out.reshape(x.shape)

    def _tap_part(self, x: Any, site: str, layer: int, shard: Shard | _Part | None) -> Tensor:
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

    def _before(self, layer: int, shard: Shard | _Part | None) -> Any:
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

    # --- what the host calls ----------------------------------------------------------------

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        keep: Tensor,
        places: Tensor,
        cache: list[Tensor],
        taps: _core.Taps,
    ) -> Tensor:
        """Logits of one step, [rows, kept tokens, vocab], under the taps' recordings and edits."""
        if any(taps.watches(taps.slot("mlp_output", layer)) for layer in self.without_output):
            raise RuntimeError(
                f"live: expected one module that gives the MLP's output in each layer, got parts that "
                f"meet in the block itself in layer {self.without_output[0]}; use the neurons or the "
                "residual stream"
            )
        self.under_way.taps = taps
        self.under_way.rows, self.under_way.tokens = ids.shape
        try:
            with torch.inference_mode(), evaluating(self.hf_model):
                return self.step(Inputs(ids, mask, positions, keep, places, cache))
        finally:
            self.under_way.taps = None

    def move(self, device: str) -> None:
        """Moves the module; ValueError where that is its owner's, or cannot be."""
        require_movable(self.hf_model)
        try:
            self.hf_model.to(device)
        except (RuntimeError, ValueError) as error:  # some quantised weights stay where they are
            raise ValueError(
                f"Model.to: expected a model that can move to {device}, got: "
                f"{first_line(error)}; load it again where it should run"
            ) from None
