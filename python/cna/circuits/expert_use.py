"""Experts: how many neurons of a circuit each holds, and how often each set of prompts is sent to it."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..base.later import pd
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .recording import record


def expert_use(
    model: Model,
    circuit: _core.Circuit,
    positive: Prompts,
    negative: Prompts,
    *,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """A mixture's experts under a circuit: its neurons in each, and the shares of prompts that use it.

    A prompt uses an expert if its last token is routed there, seen by a neuron of it that is not 0.

    Returns:
        One row an expert of each layer: layer, expert (-1: what every token sees), width, neurons (of
        the circuit), positive and negative (shares of the prompts, 0 to 1).
    Raises:
        ValueError: a dense model, a circuit of another, or prompts as `record`.
    """
    if not model.experts:
        raise ValueError(
            f"expert_use: expected a mixture of experts, got the dense {model.model_id}; use "
            "circuit.layer_counts"
        )
    if circuit.experts != model.experts or circuit.widths != model.widths:
        raise ValueError(
            "expert_use: expected a circuit of this model, got one of another shape; discover it on "
            "this model"
        )
    used = [
        _used(model, record(model, prompts, chat=chat, batch_size=batch_size, progress=progress))
        for prompts in (positive, negative)
    ]
    held: dict[tuple[int, int], int] = {}
    for neuron in circuit:
        expert, _ = circuit.expert_of(neuron.layer, neuron.index)
        key = neuron.layer, -1 if expert is None else expert
        held[key] = held.get(key, 0) + 1
    rows = [
        {
            "layer": layer,
            "expert": expert,
            "width": width,
            "neurons": held.get((layer, expert), 0),
            "positive": float(shares[0]),
            "negative": float(shares[1]),
        }
        for (layer, expert, width), *shares in zip(_experts(model), *used, strict=True)
    ]
    return pd.DataFrame(rows)


def _experts(model: Model) -> list[tuple[int, int, int]]:
    """(layer, expert, width) in the order of a layer's neurons; expert -1 behind the others."""
    out = []
    for layer, ((count, width), whole) in enumerate(zip(model.experts, model.widths, strict=True)):
        out += [(layer, expert, width) for expert in range(count)]
        rest = whole - count * width
        out += [(layer, -1, rest)] if rest else []
    return out


def _used(model: Model, recorded: object) -> np.ndarray:
    """Share of prompts with a neuron that is not 0, for each of `_experts`."""
    flat = np.asarray(recorded).reshape(len(recorded), -1)  # type: ignore[arg-type]
    starts = np.cumsum([0, *(width for _, _, width in _experts(model))])[:-1]
    return np.logical_or.reduceat(flat != 0, starts, axis=1).mean(0)
