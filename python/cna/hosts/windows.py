"""Sliding windows: which masks a model takes, found by trying, not by reading its class.

A way of masking is {kind of attention: window, or None for all earlier tokens}; the kind "" stands for
one mask that all layers get. What a wrapper (an adapter, a vision model) looks like does not matter:
`layouts` takes the first way whose numbers are the plain module's, within the window and beyond it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

Masks = dict[str, int | None]

KINDS = ("full_attention", "sliding_attention")
NARROW = 4  # tokens, where a window is too long to be exceeded in a check
_PASSES = 1e11  # multiply-adds of a prompt that a check may take


def text_config(hf_model: Any) -> Any:
    """The configuration of the language model, also inside a wrapper or a vision model."""
    return hf_model.config.get_text_config()


def unknown_kinds(hf_model: Any) -> list[str]:
    """Kinds of layers that are neither full nor sliding attention."""
    return sorted(set(getattr(text_config(hf_model), "layer_types", None) or []) - set(KINDS))


def ways_of_masking(hf_model: Any) -> list[Masks]:
    """What may be the model's masks, the likeliest first."""
    config = text_config(hf_model)
    window = _window(config)
    kinds = set(getattr(config, "layer_types", None) or [])
    ways: list[Masks] = []
    if kinds == set(KINDS) and window is not None:
        ways.append({"full_attention": None, "sliding_attention": window})
    if window is not None:
        ways.append({"": window})
    return [*ways, {"": None}]


def _window(config: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    return int(window) if isinstance(window, int) and window > 0 else None


def longest_window(hf_model: Any) -> int:
    """The longest window that the configuration names, whatever it calls it; 0 without one.

    One that no prompt can exceed counts as none.
    """
    config = text_config(hf_model)
    names = [n for n in vars(config) if "window" in n or n == "attention_chunk_size"]
    found = [getattr(config, n) for n in names if not n.startswith(("max_window", "use_"))]
    most = int(getattr(config, "max_position_embeddings", 0) or 0)
    windows = [w for w in found if type(w) is int and 0 < w and not (most and w >= most)]
    return max(windows, default=0)


def affordable(hf_model: Any) -> int:
    """Tokens that a prompt of a check may have."""
    weights = sum(p.numel() for p in hf_model.parameters())
    return int(min(1024, max(32, _PASSES / max(weights, 1))))


@contextlib.contextmanager
def narrowed(hf_model: Any) -> Iterator[None]:
    """The same model with sliding windows of `NARROW` tokens; undone on exit."""
    window = _window(text_config(hf_model))
    if window is None:
        yield
        return
    owners = [text_config(hf_model)]
    for module in hf_model.modules():
        owners += [module, getattr(module, "config", None)]
    places = {id(o): o for o in owners if getattr(o, "sliding_window", None) == window}
    try:
        for place in places.values():
            place.sliding_window = NARROW
        yield
    finally:
        for place in places.values():
            place.sliding_window = window


def narrow(masks: Masks) -> Masks:
    """The same way of masking inside `narrowed`."""
    return {kind: None if window is None else NARROW for kind, window in masks.items()}
