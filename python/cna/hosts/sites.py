"""Where the taps of a Hugging Face module go: each layer's down projection, and the layer above it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from .. import _core
from ..base.errors import first_line
from .layouts import plain_passes
from .plain import Plain

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


def neurons_of(name: str, module: nn.Module, function: str = "live") -> int:
    """Features that a linear layer takes, whatever class or quantisation it has."""
    for attribute in ("in_features", "nx"):  # GPT-2's Conv1D calls it nx
        if hasattr(module, attribute):
            return int(getattr(module, attribute))
    raise ValueError(
        f"{function}: expected a linear down projection, got {type(module).__name__} at '{name}'; "
        "narrow the pattern"
    )


def layer_numbers(names: Sequence[str], function: str = "live") -> list[int]:
    """The number of each down projection's block in the model; counted where no name has one.

    Args:
        names: of the down projections, in order.
    Raises:
        ValueError: two lie in one block, or blocks do not ascend.
    """
    found = [re.match(r".*\.(\d+)(?=\.)", name) for name in names]
    if not all(found):
        return list(range(len(names)))
    numbers = [int(match.group(1)) for match in found if match]
    for i in range(1, len(numbers)):
        if numbers[i] <= numbers[i - 1]:
            raise ValueError(
                f"{function}: expected one MLP in each block, in their order, got '{names[i]}' behind "
                f"'{names[i - 1]}'; pass a pattern that matches one of each block"
            )
    return numbers


def layer_widths(downs: Sequence[tuple[str, nn.Module]], function: str = "live") -> list[int]:
    """Neurons of each block up to the last one with an MLP, 0 for one without; errors as above."""
    numbers = layer_numbers([name for name, _ in downs], function)
    widths = [0] * (numbers[-1] + 1)
    for number, (name, module) in zip(numbers, downs, strict=True):
        widths[number] = neurons_of(name, module, function)
    return widths


def sites_of(downs: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """The name of each block's down projection, "" for one without."""
    numbers = layer_numbers([name for name, _ in downs])
    names = [""] * (numbers[-1] + 1)
    for number, (name, _) in zip(numbers, downs, strict=True):
        names[number] = name
    return names


def blocks_of(hf_model: nn.Module, downs: Sequence[tuple[str, nn.Module]]) -> list[nn.Module]:
    """Every block up to the last one with an MLP; those without stand beside the others."""
    numbers = layer_numbers([name for name, _ in downs])
    found = {n: layer_above(hf_model, name) for n, (name, _) in zip(numbers, downs, strict=True)}
    beside = re.sub(r"\.\d+\.[^0-9]*$", "", downs[-1][0])
    return [
        found[n] if n in found else hf_model.get_submodule(f"{beside}.{n}")
        for n in range(numbers[-1] + 1)
    ]


def layer_above(hf_model: nn.Module, name: str) -> nn.Module:
    """The layer that a down projection belongs to: the last numbered module above it."""
    block = re.match(r".*\.\d+(?=\.)", name)
    return hf_model.get_submodule(block.group() if block else name.rpartition(".")[0])


def running_sites(
    hf_model: Any, pattern: str, function: str
) -> tuple[list[tuple[str, nn.Module]], Plain]:
    """The down projections that a text prompt runs, and plain passes that went through them.

    A vision or audio tower beside the language model has MLPs too, which text never reaches.

    Raises:
        ValueError: the model does not run on token ids alone, or no MLP runs, or one runs twice, or a
            block has two.
    """
    matching = down_projections(hf_model, pattern, function)
    blocks = [layer_above(hf_model, name) for name, _ in matching]
    try:
        plain = plain_passes(hf_model, matching, blocks)
    except Exception as error:
        raise ValueError(
            f"{function}: expected a model that runs on token ids, got {type(error).__name__} from "
            f"{type(hf_model).__name__}: {first_line(error)}; run it by hand first"
        ) from error
    downs = [(name, module) for name, module in matching if plain.calls[name]]
    often = [name for name, _ in downs if plain.calls[name] > 1]
    if not downs or often:
        got = f"'{often[0]}' running {plain.calls[often[0]]} times" if often else "none that runs"
        raise ValueError(
            f"{function}: expected down projections that a text prompt runs once each, got {got} among "
            f"{len(matching)} that match; pass pattern= for those of the language model"
        )
    layer_widths(downs, function)
    return downs, plain
