"""Where the taps of a Hugging Face module go: each layer's down projection, and the layer above it."""

from __future__ import annotations

import re

from torch import nn

from .. import _core

DOWN_PROJECTION: str = _core.down_projection  # a regular expression, see graft.hpp


def down_projections(
    hf_model: nn.Module, pattern: str = "", function: str = "live"
) -> list[tuple[str, nn.Module]]:
    """(name, module) of each layer's down projection, in the order of the layers.

    Raises:
        ValueError: nothing matches, or the pattern is no regular expression.
    """
    try:
        wanted = re.compile(pattern or DOWN_PROJECTION)
    except re.error as error:
        raise ValueError(
            f"{function}: expected a regular expression, got '{pattern}' ({error}); try 'down_proj'"
        ) from None
    found = [(n, m) for n, m in hf_model.named_modules() if wanted.search(n)]
    if not found:
        linear = {
            re.sub(r"\.\d+", ".*", n) for n, m in hf_model.named_modules() if not list(m.children())
        }
        raise ValueError(
            f"{function}: expected a down projection that matches '{wanted.pattern}', found none among "
            f"{', '.join(sorted(linear)[:8])}; pass pattern= for the one that leaves the MLP"
        )
    return found


def _input_width(name: str, module: nn.Module, function: str) -> int:
    """Features that a linear layer takes, whatever class or quantisation it has."""
    for attribute in ("in_features", "nx"):  # GPT-2's Conv1D calls it nx
        if hasattr(module, attribute):
            return int(getattr(module, attribute))
    raise ValueError(
        f"{function}: expected a linear down projection, got {type(module).__name__} at '{name}'; "
        "narrow the pattern"
    )


def layer_width(downs: list[tuple[str, nn.Module]], function: str = "live") -> int:
    """Neurons of a layer; ValueError if layers differ."""
    widths = {_input_width(name, module, function): name for name, module in downs}
    if len(widths) > 1:
        (a, first), (b, second), *_ = widths.items()
        raise ValueError(
            f"{function}: expected one width of all MLPs, got {a} at '{first}' and {b} at '{second}'; "
            "narrow the pattern"
        )
    return next(iter(widths))


def layer_above(hf_model: nn.Module, name: str) -> nn.Module:
    """The layer that a down projection belongs to: the last numbered module above it."""
    block = re.match(r".*\.\d+(?=\.)", name)
    return hf_model.get_submodule(block.group() if block else name.rpartition(".")[0])
