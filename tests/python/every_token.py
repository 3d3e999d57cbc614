"""A circuit's activations at every token by plain hooks."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import torch
from conftest import down_projections


def plain(hf: Any, circuit: cna.Circuit, ids: list[list[int]]) -> list[np.ndarray]:
    """[tokens, neurons] of each prompt by plain hooks, one prompt at a time."""
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        m.register_forward_pre_hook(lambda _, a, i=i: seen.__setitem__(i, a[0][0].clone()))
        for i, m in enumerate(down_projections(hf))
    ]
    out = []
    for prompt in ids:
        with torch.no_grad():
            hf(torch.tensor([prompt]))
        out.append(np.stack([seen[n.layer][:, n.index].numpy() for n in circuit], 1))
    for hook in hooks:
        hook.remove()
    return out
