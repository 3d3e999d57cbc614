"""The step of a live model: with cached keys and values where that is proven exact, else without.

At the start a short prompt runs plainly and in cached steps, padded beside a shorter row. Where the
numbers differ (other state than keys and values, masks of its own kind, activations quantised over
the batch), every step sees one whole prompt.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..base.errors import first_line
from .cache_name import cache_of
from .placement import input_device, is_dtensor
from .step import CausalStep

PROBE = 6  # tokens


def _logits(out: Any) -> Tensor:
    return out.logits.full_tensor() if is_dtensor(out.logits) else out.logits


def _option(hf_model: Any, **options: Any) -> dict[str, Any]:
    """Those that the model's forward knows."""
    known = inspect.signature(type(hf_model).forward).parameters
    return {name: value for name, value in options.items() if name in known}


class CachedStep:
    """A `CausalStep` whose layers may lie on several devices.

    Attributes:
        cache: (heads, key dim, value dim) of each layer, as this process holds it.
        devices: of each layer's keys and values; empty if all lie where the tokens go.
    """

    def __init__(self, hf_model: Any, layers: list[Any]) -> None:
        self.step = CausalStep(hf_model).eval()
        self.cache = [(k.keys.shape[1], k.keys.shape[3], k.values.shape[3]) for k in layers]
        devices = [layer.keys.device for layer in layers]
        self.devices = devices if set(devices) != {input_device(hf_model)} else []

    def __call__(
        self, ids: Tensor, mask: Tensor, positions: Tensor, keep: Tensor, cache: list[Tensor]
    ) -> Tensor:
        if not self.devices:
            return self.step(ids, mask, positions, keep, *cache)
        # The head may lie on another device than `keep`: a number of places goes everywhere.
        wanted = ids.shape[1] - int(keep.min())
        logits = self.step(ids, mask, positions, wanted, *cache)
        return logits[:, (keep - ids.shape[1] + logits.shape[1]).to(logits.device)]


class WholeStep:
    """Runs whole prompts, one row at a time: exact for every model."""

    cache: tuple[()] = ()
    devices: tuple[()] = ()

    def __init__(self, hf_model: Any) -> None:
        self.hf_model = hf_model

    def __call__(
        self, ids: Tensor, mask: Tensor, positions: Tensor, keep: Tensor, cache: list[Tensor]
    ) -> Tensor:
        cut = ids.shape[1] - int(keep.min())
        options = _option(self.hf_model, use_cache=False, logits_to_keep=cut)
        logits = _logits(self.hf_model(input_ids=ids, return_dict=True, **options))
        return logits[:, (keep - ids.shape[1] + logits.shape[1]).to(logits.device)]


def choose_step(hf_model: Any, use_cache: bool) -> CachedStep | WholeStep:
    """The cached step if allowed, known and exact on a short prompt, else the whole one.

    Raises:
        ValueError: the model does not run on token ids alone.
    """
    vocab = int(hf_model.config.get_text_config().vocab_size)
    ids = (torch.arange(2, 2 + PROBE) * 7 % vocab)[None].to(input_device(hf_model))
    with torch.inference_mode():
        try:
            out = hf_model(input_ids=ids, return_dict=True, **_option(hf_model, use_cache=True))
            plain = _logits(out)
        except Exception as error:
            raise ValueError(
                f"live: expected a model that runs on token ids, got {type(error).__name__} from "
                f"{type(hf_model).__name__}: {first_line(error)}; "
                "run it by hand first"
            ) from error
        head = hf_model.get_output_embeddings()
        tokens = getattr(head, "out_features", plain.shape[-1])
        if plain.shape[-1] != tokens:
            raise ValueError(
                f"live: expected logits of {tokens} tokens, got {plain.shape[-1]}; let the "
                "tensor-parallel plan gather the head's output"
            )
        if use_cache and _has_known_layers(hf_model.config.get_text_config()):
            layers = _key_value_layers(out)
            if layers and (step := _exact_step(hf_model, layers, ids, plain)) is not None:
                return step
    return WholeStep(hf_model)


def _has_known_layers(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None) or []
    return set(kinds) <= {"full_attention", "sliding_attention"}


def _key_value_layers(out: Any) -> list[Any]:
    """The layers of a plain cache; none if one keeps anything but keys and values."""
    layers = getattr(cache_of(out), "layers", None) or []
    for layer in layers:
        pair = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not all(isinstance(t, Tensor) and t.dim() == 4 for t in pair):
            return []
    return list(layers)


def _exact_step(hf_model: Any, layers: list[Any], ids: Tensor, plain: Tensor) -> CachedStep | None:
    """The cached step, if two rows of unlike length, in two steps, give the plain logits."""
    short = PROBE - 2  # the second row: the first tokens, behind two of padding
    rows = torch.cat([ids, torch.cat([ids[:, :2], ids[:, :short]], 1)])
    mask = torch.ones_like(rows)
    mask[1, :2] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cut = PROBE // 2
    try:
        step = CachedStep(hf_model, layers)
        cache = [
            torch.zeros(2, heads, PROBE, dim, dtype=hf_model.dtype, device=layer.keys.device)
            for layer, (heads, *dims) in zip(layers, step.cache, strict=True)
            for dim in dims
        ]
        for first, last in ((0, cut), (cut, PROBE)):
            logits = step(
                rows[:, first:last],
                mask[:, :last],
                positions[:, first:last],
                torch.tensor([last - first - 1], device=ids.device),
                [buffer[:, :, :last] for buffer in cache],
            )
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model does that takes other masks or another cache
        return None
    expected = plain[0, [PROBE - 1, short - 1]].float().nan_to_num()
    worst = (logits[:, 0].float().nan_to_num() - expected).abs().max()
    wide = hf_model.dtype in (torch.float32, torch.float64)
    full = torch.get_float32_matmul_precision() == "highest"  # no TF32
    limit = 1e-3 if wide and full else 0.05
    return step if worst <= limit * expected.abs().max() else None
