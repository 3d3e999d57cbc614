"""A live host: a Hugging Face module run as it is, with the same taps through plain hooks.

What cannot be traced still works here: mixtures of devices (`device_map`), quantised weights, rotary
scalings that depend on the length. The step is the one that `cna.export` traces; the hooks call the
same C++ taps, so recordings and steering follow the same rules.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from . import _core
from .export import cache_shapes, check_exportable, max_positions, weights_hash
from .model import Model
from .step import CausalStep

DOWN_PROJECTION = (
    r"(^|\.)(mlp|feed_forward|ffn)\.(down_proj|c_proj|dense_4h_to_h|fc2|w2)$|layers\.\d+\.fc2$"
)


def down_projections(hf_model: nn.Module, pattern: str = "") -> list[tuple[str, nn.Module]]:
    """(name, module) of each layer's down projection, in the order of the layers.

    Raises:
        ValueError: nothing matches, or the pattern is no regular expression.
    """
    try:
        wanted = re.compile(pattern or DOWN_PROJECTION)
    except re.error as error:
        raise ValueError(
            f"live: expected a regular expression, got '{pattern}' ({error}); try 'down_proj'"
        ) from None
    found = [(n, m) for n, m in hf_model.named_modules() if wanted.search(n)]
    if not found:
        linear = {
            re.sub(r"\.\d+", ".*", n) for n, m in hf_model.named_modules() if not list(m.children())
        }
        raise ValueError(
            f"live: expected a down projection that matches '{wanted.pattern}', found none among "
            f"{', '.join(sorted(linear)[:8])}; pass pattern= for the one that leaves the MLP"
        )
    return found


def input_width(module: nn.Module) -> int:
    """Features that a linear layer takes, whatever class or quantisation it has."""
    for name in ("in_features", "nx"):  # GPT-2's Conv1D calls it nx
        if hasattr(module, name):
            return int(getattr(module, name))
    raise ValueError(
        f"live: expected a linear down projection, got {type(module).__name__}; narrow the pattern"
    )


class _LiveStep:
    """Runs one step with hooks that hand activations to the taps of the pass under way."""

    def __init__(self, hf_model: Any, downs: list[tuple[str, nn.Module]]) -> None:
        self.hf_model = hf_model
        self.step = CausalStep(hf_model).eval()
        self.taps: _core.Taps | None = None
        for layer, (name, module) in enumerate(downs):
            module.register_forward_pre_hook(self._before(layer))
            module.register_forward_hook(self._after("mlp_output", layer))
            block = hf_model.get_submodule(name.rsplit(".", 2)[0])
            block.register_forward_hook(self._after("residual", layer))

    def _before(self, layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if self.taps is None:
                return None
            return (self.taps.apply(args[0], self.taps.slot("neuron", layer)), *args[1:])

        return hook

    def _after(self, site: str, layer: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            if self.taps is None:
                return None
            slot = self.taps.slot(site, layer)
            if isinstance(output, Tensor):
                return self.taps.apply(output, slot)
            return (self.taps.apply(output[0], slot), *output[1:])

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
        self.taps = taps
        try:
            with torch.inference_mode():
                return self.step(ids, mask, positions, keep, *cache)
        finally:
            self.taps = None

    def move(self, device: str) -> None:
        self.hf_model.to(device)


def live(hf_model: Any, tokenizer: Any, *, model_id: str | None = None, pattern: str = "") -> Model:
    """A `Model` over a Hugging Face module in this process, nothing exported.

    Args:
        hf_model: a decoder-only causal language model; stays yours, and sees no change between
            calls. With `device_map` the tokens go to the device of its first layer.
        tokenizer: its tokenizer, or None.
        pattern: regular expression for the down projection's module name.
    Raises:
        ValueError: encoder-decoder or mixture-of-experts models, or no down projection.
    """
    check_exportable(hf_model)
    hf_model.eval()
    downs = down_projections(hf_model, pattern)
    config = hf_model.config
    eos = getattr(hf_model.generation_config, "eos_token_id", None)
    eos = config.get_text_config().eos_token_id if eos is None else eos
    info = {
        "model_id": model_id or config.name_or_path or type(hf_model).__name__,
        "weights_hash": getattr(config, "_commit_hash", None) or _safe_hash(hf_model),
        "n_layers": len(downs),
        "width": input_width(downs[0][1]),
        "hidden_size": int(config.get_text_config().hidden_size),
        "vocab_size": int(config.get_text_config().vocab_size),
        "max_positions": max_positions(config),
        "dtype": hf_model.dtype,
        "device": str(hf_model.get_input_embeddings().weight.device),
        "eos_token_ids": [] if eos is None else [eos] if isinstance(eos, int) else list(eos),
        "neuron_sites": [name for name, _ in downs],
        "residual_sites": True,
        "cache": [tuple(shape) for shape in cache_shapes(hf_model)],
    }
    step = _LiveStep(hf_model, downs)
    return Model(_core.Model.live(info, step.forward, step.move), tokenizer)


def _safe_hash(hf_model: Any) -> str:
    """Hash of the weights; empty where a quantiser's state cannot be read as plain tensors."""
    try:
        return weights_hash(hf_model)
    except (RuntimeError, TypeError, AttributeError):
        return ""
