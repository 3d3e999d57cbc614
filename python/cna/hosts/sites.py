"""Where the taps of a Hugging Face module go: each layer's down projection, and the layer above it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from .. import _core
from ..base.errors import first_line
from .blocks import block_name
from .blocks import layer_numbers as numbers_of
from .experts import experts_at, holds_experts, is_routed_mlp
from .layouts import plain_passes
from .plain import Plain

DOWN_PROJECTION: str = _core.down_projection  # regular expressions, see graft.hpp
SHARED: str = _core.shared_experts

Downs = Sequence[tuple[str, nn.Module]]


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
    named = list(hf_model.named_modules())
    if pattern or not any(holds_experts(module) for _, module in named):
        found = [(n, m) for n, m in named if wanted.search(n)]
    else:
        shared = re.compile(SHARED)
        found = [
            (n, m) for n, m in named if holds_experts(m) or wanted.search(n) or shared.search(n)
        ]
    if not found:
        linear = {
            re.sub(r"\.\d+", ".*", n) for n, m in hf_model.named_modules() if not list(m.children())
        }
        raise ValueError(
            f"{function}: expected a down projection that matches '{wanted.pattern}', found none among "
            f"{', '.join(sorted(linear)[:8])}; pass pattern= for the one that leaves the MLP"
        )

    def part(module: nn.Module) -> int:  # in a block, routed experts come first
        experts = experts_at("", module, function)
        return 1 if experts is None else 0 if experts.routed else 2

    blocks = list(dict.fromkeys(block_name(n) for n, _ in found))
    return sorted(found, key=lambda x: (blocks.index(block_name(x[0])), part(x[1])))


def neurons_of(name: str, module: nn.Module, function: str = "live") -> int:
    """Features that a linear layer takes, whatever class or quantisation it has; or all experts'."""
    if (experts := experts_at(name, module, function)) is not None:
        return experts.neurons
    for attribute in ("in_features", "nx"):  # GPT-2's Conv1D calls it nx
        if hasattr(module, attribute):
            return int(getattr(module, attribute))
    raise ValueError(
        f"{function}: expected a linear down projection, got {type(module).__name__} at '{name}'; "
        "narrow the pattern"
    )


def layer_numbers(downs: Downs, function: str = "live") -> list[int]:
    """The number of each one's block in the model; several of one block only beside experts.

    Raises:
        ValueError: two dense MLPs in one block, or blocks do not ascend.
    """
    numbers = numbers_of([name for name, _ in downs], function)
    mixed = {n for n, (_, module) in zip(numbers, downs, strict=True) if holds_experts(module)}
    for i in range(1, len(numbers)):
        if numbers[i] == numbers[i - 1] and numbers[i] not in mixed:
            raise ValueError(
                f"{function}: expected one MLP in each block, in their order, got '{downs[i][0]}' "
                f"behind '{downs[i - 1][0]}'; pass a pattern that matches one of each block"
            )
    return numbers


def layer_widths(downs: Downs, function: str = "live") -> list[int]:
    """Neurons of each block up to the last one with an MLP, 0 for one without; errors as above."""
    numbers = layer_numbers(downs, function)
    widths = [0] * (numbers[-1] + 1)
    for number, (name, module) in zip(numbers, downs, strict=True):
        widths[number] += neurons_of(name, module, function)
    return widths


def layer_experts(downs: Downs) -> list[tuple[int, int]]:
    """(count, width) of the routed experts of each block, (0, 0) without; those come first in it."""
    numbers = layer_numbers(downs)
    out = [(0, 0)] * (numbers[-1] + 1)
    for number, (name, module) in zip(numbers, downs, strict=True):
        experts = experts_at(name, module)
        if experts is not None and experts.routed:
            out[number] = (experts.count, experts.width)
    return out


def first_neurons(downs: Downs) -> list[int]:
    """Where in its layer each one's neurons begin: routed experts come first."""
    filled: dict[int, int] = {}
    out = []
    for number, (name, module) in zip(layer_numbers(downs), downs, strict=True):
        out.append(filled.get(number, 0))
        filled[number] = out[-1] + neurons_of(name, module)
    return out


def sites_of(downs: Downs) -> list[str]:
    """The name of each block's down projection, or of its first part; "" for one without."""
    numbers = layer_numbers(downs)
    names = [""] * (numbers[-1] + 1)
    for number, (name, _) in zip(numbers, downs, strict=True):
        names[number] = names[number] or name
    return names


def mlp_outputs(hf_model: nn.Module, downs: Downs) -> dict[int, nn.Module]:
    """By layer, what gives the MLP's output: a sole down projection, or the module around all parts.

    A layer whose parts meet in the block itself has none.
    """
    parts: dict[int, list[str]] = {}
    for number, (name, _) in zip(layer_numbers(downs), downs, strict=True):
        parts.setdefault(number, []).append(name)
    out = {}
    for number, names in parts.items():
        sole = hf_model.get_submodule(names[0])
        if len(names) == 1 and (is_routed_mlp(sole) or not holds_experts(sole)):
            out[number] = sole
            continue
        paths = [name.split(".")[:-1] for name in names]
        around = ".".join(_common(paths))
        if around != block_name(names[0]):
            out[number] = hf_model.get_submodule(around)
    return out


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    out = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        out.append(steps[0])
    return out


def blocks_of(hf_model: nn.Module, downs: Downs) -> list[nn.Module]:
    """Every block up to the last one with an MLP; those without stand beside the others."""
    numbers = layer_numbers(downs)
    found = {n: layer_above(hf_model, name) for n, (name, _) in zip(numbers, downs, strict=True)}
    beside = re.sub(r"\.\d+\.[^0-9]*$", "", downs[-1][0])
    return [
        found[n] if n in found else hf_model.get_submodule(f"{beside}.{n}")
        for n in range(numbers[-1] + 1)
    ]


def layer_above(hf_model: nn.Module, name: str) -> nn.Module:
    """The layer that a down projection belongs to: the last numbered module above it."""
    return hf_model.get_submodule(block_name(name))


def running_sites(
    hf_model: Any, pattern: str, function: str, weighted: bool = False
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
        plain = plain_passes(hf_model, matching, blocks, weighted)
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
