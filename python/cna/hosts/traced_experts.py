"""Experts in a graph: all of a layer as one MLP of experts * width neurons, 0 where a token is not sent.

A graph cannot sort tokens by expert, so every expert sees every token, and what the router leaves out is
masked. The numbers are those of the module, its products experts / chosen times as many. The graft finds
the neurons by the form of the product (src/linears.hpp),

    down_proj(activations.masked_fill(idle, 0) * weights)

and what the MLP gives, shared experts with it, by `aten::alias`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .experts import Experts, InterfaceExperts, experts_at
from .sites import Downs, layer_numbers, mlp_outputs

LIVE = "run it as it is with cna.live, in the shell with --live"


def require_traceable(hf_model: Any, downs: Downs, format: str) -> None:
    """Raises ValueError where a layer's experts cannot be one MLP of a graph of this format."""
    mixed: dict[int, str] = {}
    for number, (name, module) in zip(layer_numbers(downs, "export"), downs, strict=True):
        experts = experts_at(name, module, "export")
        if experts is None:
            continue
        mixed[number] = name
        if format != "torchscript":
            raise ValueError(
                f"export: expected format='torchscript' for a mixture of experts, got {format!r}; "
                f"choose that, or {LIVE}"
            )
        if why := _why_not(experts):
            raise ValueError(
                f"export: expected experts whose routing can be traced, got {type(module).__name__} at "
                f"'{name}', {why}; {LIVE}"
            )
    whole = mlp_outputs(hf_model, downs)
    for number, name in mixed.items():
        if number not in whole:
            raise ValueError(
                f"export: expected one module around all experts of a layer, got '{name}', which meets "
                f"the others in the block itself; {LIVE}"
            )


def _why_not(experts: Experts) -> str:
    """Why a weighted sum of all experts' activations is not what the module computes; or ""."""
    if not isinstance(experts, InterfaceExperts):
        return "not of transformers' experts interface"
    return experts.why_not_weighted()


class TracedExperts(nn.Module):
    """Stands where a module of transformers' experts interface was, with its weights.

    forward(hidden [tokens, hidden], chosen [tokens, k], weights [tokens, k]) -> [tokens, hidden]
    """

    def __init__(self, experts: InterfaceExperts, prompt: dict[str, Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "_own", experts.module)  # no submodule: its weights are taken over
        self._prompt = prompt
        self._count, self._width = experts.count, experts.width
        own = experts.module
        self._into = "gate_up_proj" if own.has_gate else "up_proj"
        into, down = getattr(own, self._into).detach(), own.down_proj.detach()
        if own.is_transposed:  # [experts, in, out]
            into = into.transpose(1, 2)
            down = down.transpose(1, 2)
        hidden = down.shape[1]
        self.into = nn.Parameter(into.reshape(-1, hidden), requires_grad=False)
        self.down_proj = nn.Linear(1, 1, bias=False)
        flat = down.permute(1, 0, 2).reshape(hidden, -1)
        self.down_proj.weight = nn.Parameter(flat.contiguous(), requires_grad=False)
        if own.has_bias:
            self.register_buffer("into_bias", getattr(own, self._into + "_bias").detach())
            self.register_buffer("down_bias", own.down_proj_bias.detach())

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # what a block asks of its experts
            return getattr(self.__dict__["_own"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        hidden, chosen, weights = (*args, *kwargs.values())  # their names differ
        own: Any = self.__dict__["_own"]
        every = F.linear(hidden, self.into).view(hidden.shape[0], self._count, -1)
        if own.has_bias:
            every = every + self.into_bias
        h = own._apply_gate(every) if own.has_gate else own.act_fn(every)
        sent = chosen[:, :, None] == torch.arange(self._count, device=hidden.device)
        gates = (sent * weights[:, :, None]).sum(1)
        idle = ~sent.any(1)
        rows, tokens = self._prompt["ids"].shape
        h = h.reshape(rows, tokens, self._count * self._width)
        each = gates.to(h.dtype).repeat_interleave(self._width, 1).view(rows, tokens, -1)
        left_out = idle.repeat_interleave(self._width, 1).view(rows, tokens, -1)
        out = self.down_proj(h.masked_fill(left_out, 0.0) * each).view(hidden.shape[0], -1)
        if own.has_bias:
            out = out + gates.to(out.dtype) @ self.down_bias
        return out


@contextlib.contextmanager
def traceable_experts(hf_model: Any, downs: Downs) -> Iterator[None]:
    """Every layer's experts as one MLP, and their outputs marked; undone on exit."""
    found = [(n, e) for n, m in downs if (e := experts_at(n, m, "export")) is not None]
    if not found:
        yield
        return
    prompt: dict[str, Tensor] = {}

    def begin(_: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        prompt["ids"] = kwargs["input_ids"]

    def mark(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return torch.ops.aten.alias(output)
        return type(output)([torch.ops.aten.alias(output[0]), *output[1:]])

    names = {name for name, _ in found}
    numbers = layer_numbers(downs, "export")
    mixed = {n for n, (name, _) in zip(numbers, downs, strict=True) if name in names}
    whole = mlp_outputs(hf_model, downs)
    hooks = [hf_model.register_forward_pre_hook(begin, with_kwargs=True)]
    hooks += [whole[n].register_forward_hook(mark) for n in sorted(mixed)]
    try:
        for name, experts in found:
            assert isinstance(experts, InterfaceExperts)
            hf_model.set_submodule(name, TracedExperts(experts, prompt))
        yield
    finally:
        for name, experts in found:
            hf_model.set_submodule(name, experts.module)
        for hook in hooks:
            hook.remove()
