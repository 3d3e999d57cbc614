"""Mixtures of experts by hand: what in a block holds neurons, what enters those, what they write."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.integrations import moe

DENSE = ("down_proj", "shared_mlp.output_linear")


def parts(block: nn.Module) -> list[tuple[str, Any]]:
    """(name, module) of what a block with experts holds: routed ones, shared ones, dense MLPs."""
    inside = dict(block.named_modules())
    fused = [
        n
        for n, m in inside.items()
        if any(p.dim() == 3 and q == "down_proj" for q, p in m.named_parameters(recurse=False))
    ]
    sorting = [n for n, m in inside.items() if type(m).__name__ == "JetMoeMoE"]
    dense = [n for n, m in inside.items() if n.endswith(DENSE) and isinstance(m, nn.Linear)]
    routed = [n for n in fused if "shared" not in n]
    order = [*routed, *sorting, *sorted(set(fused) - set(routed)), *dense]
    return [(n, inside[n]) for n in order]


def _down(m: Any) -> Tensor:
    return m.output_linear.weight if hasattr(m, "output_linear") else m.down_proj


def _by_rows(m: Any) -> bool:
    """Whether a neuron writes a row of its expert's weight, not a column."""
    return bool(getattr(m, "is_transposed", type(m).__name__ == "Llama4TextExperts"))


def sizes(m: Any) -> tuple[int, int]:
    """(experts, neurons of each)."""
    count, rows, columns = _down(m).shape
    return int(count), int(rows if _by_rows(m) else columns)


def is_dense(m: Any) -> bool:
    """Whether a part is one linear layer, of whatever class."""
    return hasattr(m, "in_features") or hasattr(m, "nx")


def width(m: Any) -> int:
    """Neurons of a part."""
    if is_dense(m):
        return int(m.in_features if hasattr(m, "in_features") else m.nx)
    return int(np.prod(sizes(m)))


def written(m: Any, index: int) -> Tensor:
    """A view of the weights that a part's neuron writes to the stream with."""
    if is_dense(m):  # GPT-2 keeps the transpose
        return m.weight.data[index] if hasattr(m, "nx") else m.weight.data[:, index]
    expert, j = divmod(index, sizes(m)[1])
    weight = _down(m).data[expert]
    return weight[j] if _by_rows(m) else weight[:, j]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _activations(m: Any, expert: int, x: np.ndarray) -> np.ndarray:
    """What enters an expert's down projection, in float64; x [hidden] -> [width]."""

    def w(name: str) -> np.ndarray:
        return getattr(m, name)[expert].detach().double().numpy()

    if type(m).__name__ == "GptOssExperts":
        both = x @ w("gate_up_proj") + w("gate_up_proj_bias")
        gate, up = np.minimum(both[::2], m.limit), np.clip(both[1::2], -m.limit, m.limit)
        return (up + 1) * gate / (1 + np.exp(-m.alpha * gate))
    if hasattr(m, "gate_proj"):
        return silu(w("gate_proj") @ x) * (w("up_proj") @ x)
    if not getattr(m, "has_gate", True):
        return m.act_fn(torch.from_numpy(w("up_proj") @ x)).numpy()
    both = x @ w("gate_up_proj") if _by_rows(m) else w("gate_up_proj") @ x
    plain = getattr(type(m), "_apply_gate", None) in (None, moe._default_apply_gate)
    if plain and type(m.act_fn).__name__ in ("SiLU", "SiLUActivation"):
        return silu(both[: len(both) // 2]) * both[len(both) // 2 :]
    if hasattr(m, "_apply_gate"):
        return m._apply_gate(torch.from_numpy(both)[None])[0].detach().numpy()
    gate, up = np.split(both, 2)
    return m.act_fn(torch.from_numpy(gate)).numpy() * up


def last_token(m: Any, args: tuple[Any, ...]) -> np.ndarray:
    """Activations of a part at a prompt's last token, by hand; `args` are those of its forward."""
    hidden = args[0].detach().double()
    if is_dense(m):
        return hidden.reshape(-1, hidden.shape[-1])[-1].numpy()
    count, each = sizes(m)
    out = np.zeros((count, each))
    if hasattr(m, "output_linear"):  # JetMoe
        x = hidden[0, -1].numpy()
        weight = m.input_linear.weight.detach().double().numpy()
        for e in (m.router.layer.weight.detach().double().numpy() @ x).argsort()[-m.router.top_k :]:
            gate, up = np.split(weight[e] @ x, 2)
            out[e] = silu(gate) * up
        return out.reshape(-1)
    if type(m).__name__ == "Llama4TextExperts":
        every = hidden.view(count, -1, hidden.shape[-1])[:, -1].numpy()
        return np.concatenate([_activations(m, e, every[e]) for e in range(count)])
    x = hidden.reshape(-1, hidden.shape[-1])[-1].numpy()
    for e in args[1][-1].tolist() if len(args) == 3 else range(count):
        out[e] = _activations(m, e, x)
    return out.reshape(-1)
