"""How large would |delta| be if the labels of the prompts meant nothing?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..base.html import frame_html, panel
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .recordings import (
    Floats,
    Recordings,
    as_array,
    check_count,
    choose_k,
    contrasts,
    excluded_places,
    record_sets,
    top_places,
)

_SLACK = 1e-12  # a relabelling that repeats the observed split must count as equal


@dataclass(frozen=True, eq=False)
class PermutationNull:
    """|delta| of every neuron against random relabellings of the prompts.

    Attributes:
        delta: [n_layers, width] observed contrast.
        p_value: [n_layers, width] per neuron: (1 + relabellings with |delta| as large) / (n + 1).
        p_family: [n_layers, width] the same against the largest |delta| of the whole grid in each
            relabelling, so that the chance of any false find is held (max-statistic correction).
        null_max: [n] largest |delta| in each relabelling.
        null_kth: [n] k-th largest |delta| in each relabelling.
        kth: observed k-th largest |delta|, the circuit's weakest.
        p_kth: (1 + relabellings whose k-th largest is as large) / (n + 1).
        k, n, seed: size of the circuit, relabellings drawn, seed.
        labelings: number of different relabellings that exist (inf where beyond a float).
        excluded: (layer, index) left out; their p-values are NaN.

    No p-value can fall below 1 / (n + 1), nor mean much below 1 / labelings.
    """

    delta: Floats
    p_value: Floats
    p_family: Floats
    null_max: Floats
    null_kth: Floats
    kth: float
    p_kth: float
    k: int
    n: int
    seed: int
    labelings: float
    excluded: tuple[tuple[int, int], ...] = ()

    @property
    def threshold(self) -> float:
        """|delta| that the largest neuron of 95 % of the relabellings stays below."""
        return float(np.quantile(self.null_max, 0.95, method="higher"))

    @property
    def table(self) -> pd.DataFrame:
        """The k strongest neurons: layer, index, delta, p_value, p_family."""
        width = self.delta.shape[1]
        strength = np.abs(self.delta).ravel()
        strength[excluded_places(self.excluded, self.delta.shape)] = -1.0
        places = top_places(strength, self.k)
        places = places[np.argsort(-strength[places], kind="stable")]
        return pd.DataFrame(
            {
                "layer": places // width,
                "index": places % width,
                "delta": self.delta.ravel()[places],
                "p_value": self.p_value.ravel()[places],
                "p_family": self.p_family.ravel()[places],
            }
        )

    def __repr__(self) -> str:
        found = int((self.table["p_family"] <= 0.05).sum())
        return (
            f"PermutationNull(k={self.k}, n={self.n}: {found} neurons at p_family <= 0.05, "
            f"p_kth={self.p_kth:.3g})"
        )

    def _repr_html_(self) -> str:
        table = self.table
        found = int((table["p_family"] <= 0.05).sum())
        head = (
            f"<div><b>{found:,} of {self.k:,} neurons</b> are stronger than the strongest neuron "
            f"of 95 % of {self.n:,} relabellings (|delta| above {self.threshold:.3g}); the "
            f"circuit's weakest has |delta| {self.kth:.3g}, relabellings reach "
            f"{np.median(self.null_kth):.3g} there (median; p = {self.p_kth:.2g})</div>"
        )
        return panel([head, frame_html(table, most=10)])


def permutation_null(
    source: Model | Recordings | npt.ArrayLike,
    labels: Sequence[bool] | npt.ArrayLike | None = None,
    k: int | None = None,
    n: int = 1000,
    *,
    prompts: Prompts | None = None,
    fraction: float = 0.001,
    seed: int = 0,
    excluded: Iterable[tuple[int, int]] = (),
    universal: Any = "default",
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> PermutationNull:
    """Permutation null of |delta|: labels shuffled over the prompts, sizes of the sets kept.

    Assumes that under the null the prompts of both sets could have been exchanged; sets that differ
    in more than the behaviour (length, topic) fail that, and a small p says only "they differ".

    Args:
        source: `Recordings`; or recordings [n_prompts, n_layers, width] with `labels`; or a model
            with `labels` and `prompts`.
        labels: [n_prompts] True for positive prompts.
        k, fraction: size of the circuit, as in `cna.discover`.
        n: relabellings.
        excluded: (layer, index) pairs to leave out of an array's grid.
        universal, chat: for a model, as in `cna.discover`.
    Raises:
        ValueError: labels of one kind, of another number than the prompts, or bad numbers.
        IndexError: an excluded neuron outside the grid.
    """
    caller = "permutation_null"
    check_count(n, 1, "n", caller)
    if isinstance(source, Recordings):
        if labels is not None:
            raise ValueError(
                f"{caller}: expected no labels beside Recordings, got some; the sets label them"
            )
        acts = np.concatenate([source.positive, source.negative])
        flags = np.arange(len(acts)) < len(source.positive)
        pairs = source.excluded
    elif isinstance(source, Model):
        if prompts is None:
            raise ValueError(f"{caller}: expected prompts with a model, got none; pass prompts=")
        ids = source.tokenize(prompts, chat)
        flags = _labels(labels, len(ids))
        data = record_sets(
            source,
            [x for x, f in zip(ids, flags, strict=True) if f],
            [x for x, f in zip(ids, flags, strict=True) if not f],
            universal=universal,
            chat=chat,
            batch_size=batch_size,
            progress=progress,
        )
        acts = np.concatenate([data.positive, data.negative])
        flags = np.arange(len(acts)) < len(data.positive)
        pairs = data.excluded
    else:
        acts = as_array(source, caller)
        flags = _labels(labels, len(acts))
        pairs = tuple((int(layer), int(index)) for layer, index in excluded)
    shape = (int(acts.shape[1]), int(acts.shape[2]))
    out = excluded_places(pairs, shape)
    size = choose_k(k, fraction, shape, len(out), caller)

    positive = int(flags.sum())
    negative = len(flags) - positive
    signs = np.where(flags, 1.0 / positive, -1.0 / negative)
    delta = next(contrasts(signs[None], acts))[1][0]
    observed = np.abs(delta)
    observed[out] = -1.0
    bar = observed * (1 - _SLACK)
    kth = float(np.partition(observed, len(observed) - size)[len(observed) - size])

    rng = np.random.default_rng(seed)
    draws = rng.permuted(np.broadcast_to(signs, (n, len(signs))), axis=1)
    as_large = np.zeros(len(observed), dtype=np.int64)
    null_max, null_kth = np.empty(n), np.empty(n)
    for start, block in contrasts(draws, acts):
        np.abs(block, out=block)
        block[:, out] = -1.0
        as_large += (block >= bar).sum(axis=0)
        rows = slice(start, start + len(block))
        null_max[rows] = block.max(axis=1)
        null_kth[rows] = np.partition(block, len(observed) - size, axis=1)[:, len(observed) - size]
    p_value = (1 + as_large) / (n + 1)
    beaten = n - np.searchsorted(np.sort(null_max), bar, side="left")
    p_family = (1 + beaten) / (n + 1)
    p_value[out] = p_family[out] = np.nan
    choices = math.lgamma(len(flags) + 1) - math.lgamma(positive + 1) - math.lgamma(negative + 1)
    return PermutationNull(
        delta=delta.reshape(shape),
        p_value=p_value.reshape(shape),
        p_family=p_family.reshape(shape),
        null_max=null_max,
        null_kth=null_kth,
        kth=kth,
        p_kth=float((1 + (null_kth >= kth * (1 - _SLACK)).sum()) / (n + 1)),
        k=size,
        n=n,
        seed=seed,
        labelings=float(round(math.exp(choices))) if choices < 34 else math.exp(min(choices, 700)),
        excluded=pairs,
    )


def _labels(labels: Any, n: int) -> npt.NDArray[np.bool_]:
    if labels is None:
        raise ValueError(
            "permutation_null: expected labels, got none; pass True for each positive prompt"
        )
    flags = np.asarray(labels)
    if flags.ndim != 1 or len(flags) != n or not np.isin(flags, [0, 1]).all():
        raise ValueError(
            f"permutation_null: expected {n} labels of True or False, one per prompt, got "
            f"{flags.dtype} {list(flags.shape)}; pass True for each positive prompt"
        )
    flags = flags.astype(np.bool_)
    if flags.all() or not flags.any():
        raise ValueError(
            "permutation_null: expected positive and negative prompts, got one kind only; label "
            "both"
        )
    return flags
