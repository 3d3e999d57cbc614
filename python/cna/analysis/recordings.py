"""Recordings of two sets of prompts, made once and then resampled as matrix products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .._core import Circuit, Neuron
from ..circuits.universal import UniversalNeurons, universal_filter, universal_neurons
from ..hosts.model import Model
from ..hosts.tokens import Prompts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_BLOCK_BYTES = 128 * 2**20  # of contrasts held at once


@dataclass(frozen=True, eq=False)
class Recordings:
    """Last-token activations of positive and negative prompts, and the neurons to leave out.

    Attributes:
        positive, negative: float32 or float64 [n_prompts, n_layers, width].
        excluded: (layer, index) pairs that no circuit may take (the universal neurons).
        widths: neurons of each layer where they differ; what lies behind them is 0. None: all `width`.
        experts: (count, width) of each layer's experts; empty for a dense model.
    """

    positive: npt.NDArray[Any]
    negative: npt.NDArray[Any]
    excluded: tuple[tuple[int, int], ...] = ()
    widths: tuple[int, ...] | None = None
    experts: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            value = as_array(getattr(self, name), "Recordings")
            object.__setattr__(self, name, value)
        if self.positive.shape[1:] != self.negative.shape[1:]:
            raise ValueError(
                "Recordings: expected both sets from one model, got shapes "
                f"{list(self.positive.shape)} and {list(self.negative.shape)}; record again"
            )
        pairs = tuple((int(layer), int(index)) for layer, index in self.excluded)
        object.__setattr__(self, "excluded", pairs)
        widths = self.widths_or_even
        if len(widths) != self.shape[0] or max(widths) > self.shape[1]:
            raise ValueError(
                f"Recordings: expected a width up to {self.shape[1]} for each of {self.shape[0]} "
                f"layers, got {list(widths)}; pass the model's"
            )
        excluded_places(pairs, self.shape)
        for layer, index in pairs:
            if index >= widths[layer]:
                raise IndexError(
                    f"Recordings: expected neurons below {widths[layer]} in layer {layer}, got {index}; "
                    "use those of this model"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(n_layers, width)."""
        return int(self.positive.shape[1]), int(self.positive.shape[2])

    @property
    def widths_or_even(self) -> tuple[int, ...]:
        """Neurons of each layer, [n_layers]."""
        return self.widths or (self.shape[1],) * self.shape[0]

    @property
    def n_neurons(self) -> int:
        """Of all layers."""
        return sum(self.widths_or_even)

    def left_out(self) -> Ints:
        """Flat places of a grid that no circuit may take: excluded neurons, and what is no neuron."""
        inside = np.arange(self.shape[1]) < np.asarray(self.widths_or_even)[:, None]
        gaps = np.flatnonzero(~inside.reshape(-1))
        return np.union1d(excluded_places(self.excluded, self.shape), gaps).astype(np.int64)

    def __repr__(self) -> str:
        layers, width = self.shape
        return (
            f"Recordings({len(self.positive)} positive, {len(self.negative)} negative, "
            f"{layers} x {width}, {len(self.excluded)} excluded)"
        )


def as_array(values: Any, caller: str) -> npt.NDArray[Any]:
    """Recordings as a finite float array [n, n_layers, width]; ValueError otherwise."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype != torch.float64 else values).numpy()
    array = np.asarray(values)
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"{caller}: expected recordings [n_prompts, n_layers, width], got {array.dtype} "
            f"{list(array.shape)}; make them with cna.record"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{caller}: expected finite recordings, got NaN or infinity; record again in float32"
        )
    return array


def record_sets(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Recordings:
    """Records both sets in one pass, for several analyses of the same prompts.

    Args:
        universal, chat: as in `cna.discover`.
    Raises:
        ValueError: bad prompts or `universal`.
    """
    left, right = model.tokenize(positive, chat), model.tokenize(negative, chat)
    both = model.record(left + right, chat=chat, batch_size=batch_size, progress=progress)
    acts = both.numpy()
    removed = universal_filter(
        universal,
        lambda: universal_neurons(model, chat=chat, batch_size=batch_size, progress=progress),
        "record_sets",
    )
    out = removed.neurons if removed else ()
    shape = tuple(model.widths), tuple(model.experts)
    return Recordings(acts[: len(left)], acts[len(left) :], out, *shape)


def gather(
    model: Model | Recordings,
    positive: Prompts | None,
    negative: Prompts | None,
    universal: str | UniversalNeurons | None,
    chat: bool | None,
    batch_size: int,
    progress: bool,
) -> Recordings:
    """The recordings given, or those of a model's prompts."""
    if isinstance(model, Recordings):
        if positive is not None or negative is not None:
            raise ValueError(
                "stability: expected recordings alone, got prompts too; pass a model with prompts, "
                "or recordings"
            )
        return model
    if positive is None or negative is None:
        raise ValueError(
            "stability: expected positive and negative prompts with a model, got none; pass both"
        )
    return record_sets(
        model,
        positive,
        negative,
        universal=universal,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )


def excluded_places(pairs: Iterable[tuple[int, int]], shape: tuple[int, int]) -> Ints:
    """Flat places layer * width + index of (layer, index) pairs; IndexError outside the grid."""
    layers, width = shape
    out = []
    for layer, index in pairs:
        if not (0 <= layer < layers and 0 <= index < width):
            raise IndexError(
                f"Recordings: expected neurons inside {layers} x {width}, got ({layer}, {index}); "
                "use those of this model"
            )
        out.append(layer * width + index)
    return np.asarray(sorted(set(out)), dtype=np.int64)


def contrasts(weights: Floats, recordings: npt.NDArray[Any]) -> Iterator[tuple[int, Floats]]:
    """weights [n_draws, n_prompts] @ recordings [n_prompts, neurons], in float64 and in blocks.

    Yields (first draw of the block, contrasts [draws in the block, neurons]).
    """
    flat = np.ascontiguousarray(recordings.reshape(len(recordings), -1), dtype=np.float64)
    step = max(1, _BLOCK_BYTES // (8 * flat.shape[1]))
    for start in range(0, len(weights), step):
        yield start, weights[start : start + step] @ flat


def top_places(strength: Floats, k: int) -> Ints:
    """Flat places, ascending, of the k largest of `strength` [neurons]; ties go to lower places."""
    threshold = np.partition(strength, len(strength) - k)[len(strength) - k]
    above = np.flatnonzero(strength > threshold)
    ties = np.flatnonzero(strength == threshold)[: k - len(above)]
    return np.sort(np.concatenate([above, ties])).astype(np.int64)


def make_circuit(
    delta: Floats, places: Ints, data: Recordings, provenance: dict[str, Any]
) -> Circuit:
    """The circuit of flat places of a grid with their entries of `delta`, on the recorded model."""
    widths, width = list(data.widths_or_even), data.shape[1]
    neurons = [Neuron(int(p // width), int(p % width), float(delta[p])) for p in places]
    return Circuit(data.shape, neurons, provenance, widths=widths, experts=list(data.experts))
