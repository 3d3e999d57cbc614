"""Steering someone else's code: a circuit's hooks on a plain module, or as a list for other libraries.

with cna.steered(hf_model, circuit, 0.0):
    pipeline("Start the washing machine")
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .. import _core
from .experts import Experts, experts_at
from .plain import evaluating
from .sites import Downs, first_neurons, layer_numbers, layer_widths, neurons_of, running_sites
from .tapped_forward import TappedForward

Hook = Callable[..., Any]
TRANSFORMER_LENS = "blocks.{layer}.mlp.hook_post"
NNSIGHT = "model.layers.{layer}.mlp.down_proj"


@contextlib.contextmanager
def steered(
    hf_model: nn.Module, circuit: _core.Circuit, multiplier: float = 0.0, *, pattern: str = ""
) -> Iterator[nn.Module]:
    """Steers every pass of a Hugging Face module inside the block: a <- multiplier * a.

    The module's own `generate`, a pipeline around it, a training step or a server's thread: whatever
    runs it is steered, on every thread. `cna.live` is faster where cna itself asks the questions.

    Args:
        hf_model: a transformers causal language model, also spread over devices or quantised.
        multiplier: 0 ablates, 1 is the model itself, 2 amplifies, negative reverses.
        pattern: regular expression for the down projection's module path, where unusual.
    Raises:
        ValueError: no circuit or strength, a model that does not run on token ids, a circuit of another
            one, weights split over processes.
    """
    _require(circuit, multiplier, "steered")
    with evaluating(hf_model):
        downs, _ = running_sites(hf_model, pattern, "steered")
    widths = layer_widths(downs, "steered")
    if widths != circuit.widths:
        raise ValueError(
            f"steered: expected a circuit of {sum(widths)} neurons in {len(widths)} layers, got one of "
            f"{sum(circuit.widths)} in {len(circuit.widths)}; use the model that it was found on"
        )
    undo = _place(downs, circuit, multiplier)
    try:
        yield hf_model
    finally:
        for step in undo:
            step()


def _place(downs: Downs, circuit: _core.Circuit, multiplier: float) -> list[Callable[[], Any]]:
    undo: list[Callable[[], Any]] = []
    layers = layer_numbers(downs, "steered")
    for layer, first, (name, module) in zip(layers, first_neurons(downs), downs, strict=True):
        size = neurons_of(name, module, "steered")
        own = [n.index - first for n in circuit if n.layer == layer and 0 <= n.index - first < size]
        if not own:
            continue
        edit = scaling(own, size, multiplier)
        experts = experts_at(name, module, "steered")
        if experts is None:
            undo.append(module.register_forward_pre_hook(_before(edit)).remove)
            continue
        owner = SimpleNamespace(under_way=SimpleNamespace(taps=True))  # in every pass
        forward = TappedForward.on(module).join(owner, _with_experts(experts, edit))
        undo.append(partial(forward.leave, owner))
    return undo


def scaling(own: list[int], size: int, multiplier: float) -> Callable[[Tensor, int], Tensor]:
    """x [..., features from `first` on] -> the same with these neurons scaled, rounded once."""
    scale = torch.ones(size)
    scale[own] = multiplier

    def edit(x: Tensor, first: int = 0) -> Tensor:
        here = scale[first : first + x.shape[-1]].to(x.device)
        return (x * here).to(x.dtype)

    return edit


def _before(edit: Callable[[Tensor, int], Tensor]) -> Hook:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (edit(args[0], 0), *args[1:])

    return hook


def _with_experts(experts: Experts, edit: Callable[[Tensor, int], Tensor]) -> Hook:
    def tap(h: Tensor, expert: int, _: Tensor) -> Tensor:
        return edit(h, expert * experts.width)

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return experts.run(tap, False, *args, **kwargs)

    return forward


def to_hooks(
    circuit: _core.Circuit, multiplier: float = 0.0, *, names: str = TRANSFORMER_LENS
) -> list[tuple[str, Hook]]:
    """The circuit at one strength as (name, function) of each of its layers, for other libraries.

    TransformerLens takes them as they are, `run_with_hooks(tokens, fwd_hooks=circuit.to_hooks(0.0))`;
    for nnsight see docs/own-code.md.

    Args:
        multiplier: 0 ablates, 1 is the model itself.
        names: of a hook or module, with {layer}: "blocks.{layer}.mlp.hook_post" for TransformerLens, by
            default; "model.layers.{layer}.mlp.down_proj" for nnsight.
    Returns:
        Functions of (activation [..., width], hook=None) that give it with the circuit's neurons scaled.
    Raises:
        ValueError: an empty circuit, a strength that is not finite, a circuit of a mixture of experts,
            whose neurons these libraries do not hold in one place.
    """
    _require(circuit, multiplier, "to_hooks")
    if circuit.experts:
        raise ValueError(
            "to_hooks: expected a circuit of a dense model, got one of a mixture of experts; use "
            "cna.steered on the module"
        )
    out = []
    for layer in sorted({n.layer for n in circuit}):
        own = [n.index for n in circuit if n.layer == layer]
        edit = scaling(own, circuit.widths[layer], multiplier)

        def hook(activation: Tensor, hook: Any = None, edit: Any = edit) -> Tensor:
            return edit(activation)

        out.append((names.format(layer=layer), hook))
    return out


def _require(circuit: Any, multiplier: float, function: str) -> None:
    if not isinstance(circuit, _core.Circuit):
        raise ValueError(
            f"{function}: expected a Circuit, got {type(circuit).__name__}; discover or load one first"
        )
    if not len(circuit):
        raise ValueError(
            f"{function}: expected at least one neuron, got an empty circuit; discover one first"
        )
    if not math.isfinite(multiplier):
        raise ValueError(
            f"{function}: expected a finite multiplier, got {multiplier}; 0 ablates, 1 is the model"
        )
