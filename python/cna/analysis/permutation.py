"""The permutation null: how large |delta| gets where the labels of the prompts mean nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..base.checks import whole_number
from ..base.html import frame_html, lead, panel
from ..base.later import pd
from ..circuits.size import circuit_size
from ..circuits.universal import UniversalNeurons
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .recordings import (
    Bools,
    Floats,
    Ints,
    Recordings,
    as_array,
    contrasts,
    record_sets,
    top_places,
)

_CALLER = "permutation_null"
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
        strength[np.isnan(self.p_value).ravel()] = -1.0  # left out, or no neuron
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
        head = lead(
            f"{found:,} of {self.k:,} neurons",
            f"are stronger than the strongest neuron "
            f"of 95 % of {self.n:,} relabellings (|delta| above {self.threshold:.3g}); the "
            f"circuit's weakest has |delta| {self.kth:.3g}, relabellings reach "
            f"{np.median(self.null_kth):.3g} there (median; p = {self.p_kth:.2g})",
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
    paired: bool = False,
    excluded: Iterable[tuple[int, int]] = (),
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> PermutationNull:
    """Permutation null of |delta|: labels shuffled over the prompts, sizes of the sets kept.

    Knows the ranking by mean difference only: a circuit found with another `ranking` of
    `cna.discover` has other strengths, and this says nothing about it.

    Assumes that under the null the prompts of both sets could have been exchanged; sets that differ
    in more than the behaviour (length, topic) fail that, and a small p says only "they differ".

    Args:
        source: `Recordings`; or recordings [n_prompts, n_layers, width] with `labels`; or a model
            with `labels` and `prompts`.
        labels: [n_prompts] True for positive prompts.
        k, fraction: size of the circuit, as in `cna.discover`.
        n: relabellings.
        paired: whether the i-th positive prompt belongs to the i-th negative one (as the two verbs
            of one sentence): labels are then exchanged within pairs only.
        excluded: (layer, index) pairs to leave out of an array's grid.
        universal, chat: for a model, as in `cna.discover`.
    Raises:
        ValueError: labels of one kind, of another number than the prompts, or bad numbers.
        IndexError: an excluded neuron outside the grid.
    """
    whole_number(n, 1, "n", _CALLER)
    acts, flags, data = _labelled(
        source, labels, prompts, excluded, universal, chat, batch_size, progress
    )
    shape = (int(acts.shape[1]), int(acts.shape[2]))
    out = data.left_out()
    size = circuit_size(shape, fraction, k, excluded=len(out), function=_CALLER)
    positive, negative = int(flags.sum()), int((~flags).sum())
    signs = np.where(flags, 1.0 / positive, -1.0 / negative)
    delta = next(contrasts(signs[None], acts))[1][0]
    observed = np.abs(delta)
    observed[out] = -1.0
    reached = observed * (1 - _SLACK)
    kth = float(np.partition(observed, len(observed) - size)[len(observed) - size])

    draws = _relabelled(signs, flags, n, paired, np.random.default_rng(seed))
    as_large, null_max, null_kth = _null(draws, acts, reached, out, size)
    p_value = (1 + as_large) / (n + 1)
    beaten = n - np.searchsorted(np.sort(null_max), reached, side="left")
    p_family = (1 + beaten) / (n + 1)
    p_value[out] = p_family[out] = np.nan
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
        labelings=2.0 ** min(positive, 1000) if paired else _labelings(positive, negative),
        excluded=data.excluded,
    )


def _relabelled(
    signs: Floats, flags: Bools, n: int, paired: bool, rng: np.random.Generator
) -> Floats:
    """Weights [n, n_prompts] of the contrast under n relabellings."""
    if not paired:
        return rng.permuted(np.broadcast_to(signs, (n, len(signs))), axis=1)
    positive, negative = np.flatnonzero(flags), np.flatnonzero(~flags)
    if len(positive) != len(negative):
        raise ValueError(
            f"{_CALLER}: expected as many positive as negative prompts with paired=True, got "
            f"{len(positive)} and {len(negative)}; pair them, or leave it out"
        )
    draws = np.empty((n, len(signs)))
    draws[:, positive] = rng.choice([-1.0, 1.0], (n, len(positive))) / len(positive)
    draws[:, negative] = -draws[:, positive]
    return draws


def _null(
    draws: Floats, acts: npt.NDArray[Any], reached: Floats, out: Ints, size: int
) -> tuple[Ints, Floats, Floats]:
    """Over the draws: how often each |delta| reaches the observed one; the largest, the k-th."""
    as_large = np.zeros(len(reached), dtype=np.int64)
    largest, kth = np.empty(len(draws)), np.empty(len(draws))
    for start, block in contrasts(draws, acts):
        np.abs(block, out=block)
        block[:, out] = -1.0
        as_large += (block >= reached).sum(axis=0)
        rows = slice(start, start + len(block))
        largest[rows] = block.max(axis=1)
        kth[rows] = np.partition(block, len(reached) - size, axis=1)[:, len(reached) - size]
    return as_large, largest, kth


def _labelings(positive: int, negative: int) -> float:
    """How many ways there are to label the prompts: a whole number where a float holds it."""
    choices = math.lgamma(positive + negative + 1)
    choices -= math.lgamma(positive + 1) + math.lgamma(negative + 1)
    return float(round(math.exp(choices))) if choices < 34 else math.exp(min(choices, 700))


def _labelled(
    source: Model | Recordings | npt.ArrayLike,
    labels: Any,
    prompts: Prompts | None,
    excluded: Iterable[tuple[int, int]],
    universal: str | UniversalNeurons | None,
    chat: bool | None,
    batch_size: int,
    progress: bool,
) -> tuple[npt.NDArray[Any], Bools, Recordings]:
    """Recordings [n_prompts, n_layers, width], their labels, and what says which to leave out."""
    if isinstance(source, Recordings):
        if labels is not None:
            raise ValueError(
                f"{_CALLER}: expected no labels beside Recordings, got some; the sets label them"
            )
        data = source
    elif isinstance(source, Model):
        if prompts is None:
            raise ValueError(f"{_CALLER}: expected prompts with a model, got none; pass prompts=")
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
    else:
        acts = as_array(source, _CALLER)
        return acts, _labels(labels, len(acts)), Recordings(acts, acts, tuple(excluded))
    acts = np.concatenate([data.positive, data.negative])
    return acts, np.arange(len(acts)) < len(data.positive), data


def _labels(labels: Any, n: int) -> Bools:
    if labels is None:
        raise ValueError(
            f"{_CALLER}: expected labels, got none; pass True for each positive prompt"
        )
    flags = np.asarray(labels)
    if flags.ndim != 1 or len(flags) != n or not np.isin(flags, [0, 1]).all():
        raise ValueError(
            f"{_CALLER}: expected {n} labels of True or False, one per prompt, got "
            f"{flags.dtype} {list(flags.shape)}; pass True for each positive prompt"
        )
    flags = flags.astype(np.bool_)
    if flags.all() or not flags.any():
        raise ValueError(
            f"{_CALLER}: expected positive and negative prompts, got one kind only; label both"
        )
    return flags
