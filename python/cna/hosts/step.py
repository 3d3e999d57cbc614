"""The step that is exported, traced or run live: one forward pass with caller-owned caches."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache_name import cache_argument
from .windows import Masks

_ATTENTION = "cna_sdpa"


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Grouped-query attention, [rows, heads, tokens, dim]; scripted, so the branch stays a branch.

    One new token: the heads of a group become query rows, and no key is copied.
    """
    groups = q.size(1) // k.size(1)
    if groups == 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    if q.size(2) == 1:
        packed = q.reshape(q.size(0), k.size(1), groups, q.size(3))
        out = F.scaled_dot_product_attention(packed, k, v, attn_mask=mask, scale=scale)
        return out.reshape(q.size(0), q.size(1), 1, v.size(3))
    k = k.repeat_interleave(groups, 1)
    v = v.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


_scripted_attend: Any = None


def _cna_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    scale = float(scaling) if scaling is not None else float(query.shape[-1]) ** -0.5
    out = _scripted_attend(query, key, value, attention_mask, scale)
    return out.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def quiet_tracing() -> Iterator[None]:
    """Tracing warns of every shape that becomes a constant, and that TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)  # properties that tracing reads
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' bars and notes; errors still show."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def traceable_attention(hf_model: Any) -> Iterator[None]:
    """Swaps SDPA or flash attention for one that is exact, grouped and traceable; undone on exit."""
    global _scripted_attend
    from transformers import AttentionInterface

    before = hf_model.config._attn_implementation
    if before == "eager":  # for instance Gemma 2, whose softcap SDPA does not know
        yield
        return
    if _scripted_attend is None:
        with quiet_tracing():
            _scripted_attend = torch.jit.script(_attend)
    AttentionInterface.register(_ATTENTION, _cna_attention)
    try:
        hf_model.set_attn_implementation(_ATTENTION)
        yield
    finally:
        hf_model.set_attn_implementation(before)


def _write(buffer: Tensor, places: Tensor, states: Tensor) -> Tensor:
    """Puts states [rows, heads, new, dim] at `places` [new] of a buffer [rows, heads, total, dim].

    One operator with an index: neither shapes nor addresses change from step to step.
    """
    if places.device != buffer.device:
        places = places.to(buffer.device)
    if states.dtype != buffer.dtype:
        states = states.to(buffer.dtype)
    return buffer.index_copy_(2, places, states)


def _make_buffer_cache(places: Tensor, buffers: tuple[Tensor, ...]) -> Any:
    from transformers.cache_utils import Cache

    class BufferCache(Cache):
        """Keys and values in the caller's buffers [rows, heads, total, dim], filled at `places`."""

        def __init__(self) -> None:
            self.layers = []

        def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
            return 0

        def update(
            self,
            key_states: Tensor,
            value_states: Tensor,
            layer_idx: int,
            *args: Any,
            **kwargs: Any,
        ) -> tuple[Tensor, Tensor]:
            keys, values = buffers[2 * layer_idx], buffers[2 * layer_idx + 1]
            return _write(keys, places, key_states), _write(values, places, value_states)

    return BufferCache()


class CausalStep(nn.Module):
    """One step of a causal language model over a batch.

    forward(input_ids [rows, new], attention_mask [rows, total], position_ids [rows, new],
            logit_positions [k], write_places [new],
            key_0, value_0, key_1, ... each [rows, heads, total, dim])
        -> logits [rows, k, vocab]
    Integers are int64. `total` counts places: those of earlier tokens, the new ones', which are written
    at `write_places`, and any behind them, which hold finite numbers and are 1 in the mask. A token
    sees those before it in its own row, and only real ones. `masks` is the model's way of masking, see
    `windows`.
    """

    def __init__(self, model: Any, masks: Masks) -> None:
        super().__init__()
        self.model = model
        self._masks = masks
        self._cache = cache_argument(model)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        logit_positions: Tensor,
        write_places: Tensor,
        *buffers: Tensor,
    ) -> Tensor:
        places = torch.cumsum(attention_mask, 1) - 1
        seen = (places[:, None, :] <= position_ids[:, :, None]) & (attention_mask[:, None, :] > 0)
        lowest = torch.finfo(self.model.dtype).min
        masks = {}
        for kind, window in self._masks.items():
            allowed = seen
            if window is not None:
                allowed = seen & (position_ids[:, :, None] - places[:, None, :] < window)
            zero = torch.zeros_like(allowed[:, None], dtype=self.model.dtype)
            masks[kind] = zero.masked_fill(~allowed[:, None], lowest)
        mask = masks if "" not in masks else masks[""]
        out = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            use_cache=True,
            logits_to_keep=logit_positions,
            return_dict=True,
            **{self._cache: _make_buffer_cache(write_places, buffers)},
        )
        return out.logits
