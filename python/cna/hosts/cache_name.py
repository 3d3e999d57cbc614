"""What a model calls its keys and values: `cache`, in transformers before 5.24 `past_key_values`.

The old name of forward's argument goes in 5.40, so it is read off the signature and never assumed.
"""

from __future__ import annotations

from typing import Any

from .plain import parameters_of

_NAMES = ("cache", "past_key_values")  # the newest first


def cache_argument(hf_model: Any) -> str:
    """The name of forward's argument for keys and values."""
    known = parameters_of(hf_model)
    return next((name for name in _NAMES if name in known), _NAMES[-1])


def cache_of(output: Any) -> Any:
    """The keys and values of a model's output, or None where it has none."""
    for name in _NAMES:  # the old name warns where both are known
        if (found := getattr(output, name, None)) is not None:
            return found
        if name in getattr(output, "__dataclass_fields__", {}):
            return None
    return None
