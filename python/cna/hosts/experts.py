"""Mixtures of experts: modules that hold many small MLPs, each of which sees the tokens sent to it.

A layer of E experts of width d has E * d neurons, expert by expert, 0 where the router does not send
the token: the layer's output is the sum over them. A neuron is what enters its expert's down
projection, before the routing weight (`weighted`: behind it). Steering one of an expert that does not
run changes nothing.

Experts that share one module keep their weights in tensors of three dimensions, which no hook reaches
into; so that module's forward is run here, by the same arithmetic, with a tap before each down
projection.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .placement import is_dtensor

# (activations [tokens of the expert, width], expert, places of its tokens) -> what goes on
Tap = Callable[[Tensor, int, Tensor], Tensor]


class Experts(abc.ABC):
    """The experts of one module: `count` of `width` neurons each.

    A subclass is one way in which modules hold and run them; `routed`: a token runs a few of them.
    """

    routed = True

    def __init__(self, name: str, module: Any, count: int, width: int) -> None:
        self.name, self.module = name, module
        self.count, self.width = count, width

    @property
    def neurons(self) -> int:
        return self.count * self.width

    @abc.abstractmethod
    def run(self, tap: Tap, weighted: bool, *args: Any, **kwargs: Any) -> Tensor:
        """What the module's forward gives for these arguments, with `tap` in every expert that runs."""

    def last_token(self, weighted: bool, *args: Any, **kwargs: Any) -> Tensor:
        """Activations of all experts at the last token, [count * width], float32 on the CPU."""
        out = torch.zeros(self.neurons)
        most = 0

        def see(h: Tensor, expert: int, tokens: Tensor) -> Tensor:
            nonlocal most
            at = int(tokens.argmax())
            last = int(tokens[at])
            if last > most:  # of a later token than any before
                out.zero_()
            if last >= most:
                most = last
                out[expert * self.width :][: self.width] = h[at].float().cpu()
            return h

        self.run(see, weighted, *args, **kwargs)
        return out

    def why_not_weighted(self) -> str:
        """Why the routing weight cannot be moved before the down projection; "" where it can."""
        return ""

    def require_weighted(self) -> None:
        """Raises ValueError where the routing weight cannot be moved before the down projection."""
        if why := self.why_not_weighted():
            raise ValueError(
                f"live: expected experts that can be weighted before their down projection, got "
                f"'{self.name}' {why}; leave out weighted="
            )


class InterfaceExperts(Experts):
    """transformers' experts interface: forward(hidden, experts [tokens, k], weights)."""

    def __init__(self, name: str, module: Any) -> None:
        down = module.down_proj
        width = down.shape[1] if module.is_transposed else down.shape[2]
        super().__init__(name, module, int(down.shape[0]), int(width))

    def run(self, tap: Tap, weighted: bool, *args: Any, **kwargs: Any) -> Tensor:
        hidden, index, weights = (*args, *kwargs.values())  # their names differ
        m = self.module
        out = torch.zeros_like(hidden, dtype=weights.dtype)
        for expert in index.unique().tolist():
            if expert >= self.count:  # the mark of a token that stays out
                continue
            tokens, place = torch.where(index == expert)
            weight = weights[tokens, place, None]
            h = self._activations(expert, hidden[tokens])
            h = tap(h * weight.to(h.dtype) if weighted else h, expert, tokens)
            y = _linear(h, m.down_proj[expert], m.is_transposed)
            if m.has_bias:
                bias = m.down_proj_bias[expert]
                y = y + (bias * weight.to(bias.dtype) if weighted else bias)
            if getattr(m, "has_post_expert_norm", False):
                y = m.post_expert_norm(y)
            out.index_add_(0, tokens, (y if weighted else y * weight).to(out.dtype))
        return out.to(hidden.dtype)

    def _activations(self, expert: int, x: Tensor) -> Tensor:
        m = self.module
        name = "gate_up_proj" if m.has_gate else "up_proj"
        h = _linear(x, getattr(m, name)[expert], m.is_transposed)
        if m.has_bias:
            h = h + getattr(m, name + "_bias")[expert]
        return m._apply_gate(h) if m.has_gate else m.act_fn(h)

    def why_not_weighted(self) -> str:
        normed = getattr(self.module, "has_post_expert_norm", False)
        return "with a norm behind each" if normed else ""


class ScaledInputExperts(Experts):
    """Llama 4: each expert gets all tokens, scaled by the router, [experts * tokens, hidden]."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, *map(int, module.down_proj.shape[:2]))

    def run(self, tap: Tap, weighted: bool, *args: Any, **kwargs: Any) -> Tensor:
        (hidden,) = (*args, *kwargs.values())
        m = self.module
        every = hidden.view(self.count, -1, hidden.shape[-1])
        out = torch.zeros_like(every)
        for expert, x in enumerate(every):
            tokens = x.any(-1).nonzero()[:, 0]
            if len(tokens):
                gate, up = (x[tokens] @ m.gate_up_proj[expert]).chunk(2, dim=-1)
                h = tap(up * m.act_fn(gate), expert, tokens)
                out[expert, tokens] = h @ m.down_proj[expert]
        return out.view(-1, hidden.shape[-1])

    def why_not_weighted(self) -> str:
        return "whose input is weighted"


class RoutedMlp(Experts):
    """JetMoe: a whole MLP [rows, tokens, hidden] that sorts its tokens by expert."""

    def __init__(self, name: str, module: Any) -> None:
        count, _, width = module.output_linear.weight.shape
        super().__init__(name, module, int(count), int(width))

    def run(self, tap: Tap, weighted: bool, *args: Any, **kwargs: Any) -> Tensor:
        (hidden,) = (*args, *kwargs.values())
        m = self.module
        x = hidden.reshape(-1, hidden.shape[-1])
        _, tokens, gates, sizes, _ = m.router(x)
        gate, up = m.input_linear(x[tokens], sizes).chunk(2, dim=-1)
        h = m.activation(gate) * up
        gates = gates[:, None]
        h = h * gates if weighted else h
        parts = zip(h.split(sizes), tokens.split(sizes), strict=True)
        h = torch.cat([tap(part, e, at) if len(at) else part for e, (part, at) in enumerate(parts)])
        y = m.output_linear(h, sizes)
        out = torch.zeros_like(x).index_add(0, tokens, y if weighted else y * gates)
        return out.view(hidden.shape) + m.bias


class SharedExperts(Experts):
    """Inkling: a few experts that see every token, forward(hidden, gammas [.., experts])."""

    routed = False

    def __init__(self, name: str, module: Any) -> None:
        count, _, width = module.down_proj.shape
        super().__init__(name, module, int(count), int(width))

    def run(self, tap: Tap, weighted: bool, *args: Any, **kwargs: Any) -> Tensor:
        given = dict(zip(("hidden_states", "gammas"), args, strict=False)) | kwargs
        hidden, m = given["hidden_states"], self.module
        x = hidden.reshape(-1, hidden.shape[-1])
        gammas = given["gammas"].reshape(-1, self.count)
        tokens = torch.arange(len(x), device=x.device)
        out = torch.zeros_like(x, dtype=torch.float32)
        for expert in range(self.count):
            h = m.act_fn(F.linear(x, m.gate_proj[expert])) * F.linear(x, m.up_proj[expert])
            gamma = gammas[:, expert, None]
            h = tap(h * gamma, expert, tokens) if weighted else tap(h, expert, tokens) * gamma
            out += F.linear(h, m.down_proj[expert]).float()
        return out.to(hidden.dtype).view(hidden.shape)


def _linear(x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    return x @ weight if transposed else F.linear(x, weight)


def holds_experts(module: Any) -> bool:
    """Whether a module holds the down projections of several MLPs in one tensor."""
    weight = getattr(module, "down_proj", None)
    return (isinstance(weight, Tensor) and weight.dim() == 3) or is_routed_mlp(module)


def is_routed_mlp(module: Any) -> bool:
    """Whether a module is an MLP with its router and experts; JetMoe's attention has no activation."""
    weight = getattr(getattr(module, "output_linear", None), "weight", None)
    parts = all(hasattr(module, name) for name in ("router", "input_linear", "activation"))
    return parts and isinstance(weight, Tensor) and weight.dim() == 3


def experts_at(name: str, module: Any, function: str = "live") -> Experts | None:
    """The experts that a module holds in one tensor; None where it holds none.

    Raises:
        ValueError: in a way that is not known, split over processes, or quantised.
    """
    if not holds_experts(module):
        return None
    kind = type(module).__name__
    if any(is_dtensor(p) for p in module.parameters()) or getattr(
        module, "_is_expert_parallel", False
    ):
        raise ValueError(
            f"{function}: expected experts that this process holds whole, got '{name}' split over "
            "processes; load the model without a tensor-parallel plan, device_map= spreads it too"
        )
    down = module.output_linear.weight if is_routed_mlp(module) else module.down_proj
    if not down.is_floating_point() or down.element_size() < 2:
        raise ValueError(
            f"{function}: expected experts in float32, float16 or bfloat16, got '{name}' in "
            f"{down.dtype}; load the model without its quantisation"
        )
    if is_routed_mlp(module):
        return RoutedMlp(name, module)
    if hasattr(module, "is_transposed") and hasattr(module, "_apply_gate"):
        return InterfaceExperts(name, module)
    if kind == "Llama4TextExperts":
        return ScaledInputExperts(name, module)
    if kind.endswith("SharedExperts") and hasattr(module, "gate_proj"):
        return SharedExperts(name, module)
    raise ValueError(
        f"{function}: expected experts of transformers' experts interface, got {kind} at '{name}'; this "
        "mixture is not known"
    )
