"""Stability: whether other prompts of the same kind would have given the same circuit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._core import Circuit
from ..base.checks import whole_number
from ..base.html import frame_html, lead, panel, rows_html
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
    contrasts,
    gather,
    make_circuit,
    top_places,
)

Select = Callable[[Floats], Ints]


@dataclass(frozen=True, eq=False)
class Stability:
    """How a circuit holds up when its prompts are drawn again.

    Attributes:
        circuit: found on all prompts.
        frequency: [k] share of the bootstrap circuits with each neuron, in the circuit's order.
        delta_low, delta_high: [k] percentile interval (95 %) of each neuron's delta.
        bootstrap_jaccard: [n_bootstrap] of each bootstrap circuit with the circuit.
        half_jaccard: [n_halves] of the circuits of two disjoint random halves of the prompts.
        chance_jaccard: expected between two random circuits of this size.
        n_positive, n_negative: prompts.
        seed: of the draws.
    """

    circuit: Circuit
    frequency: Floats
    delta_low: Floats
    delta_high: Floats
    bootstrap_jaccard: Floats
    half_jaccard: Floats
    chance_jaccard: float
    n_positive: int
    n_negative: int
    seed: int

    @property
    def half_interval(self) -> tuple[float, float, float]:
        """2.5 %, 50 % and 97.5 % of the split-half Jaccard; NaN without halves."""
        return _quantiles(self.half_jaccard)

    @property
    def bootstrap_interval(self) -> tuple[float, float, float]:
        """2.5 %, 50 % and 97.5 % of the bootstrap circuits' Jaccard with the circuit."""
        return _quantiles(self.bootstrap_jaccard)

    @property
    def table(self) -> pd.DataFrame:
        """One row per neuron of the circuit, strongest first."""
        neurons = self.circuit.neurons
        return pd.DataFrame(
            {
                "layer": [n.layer for n in neurons],
                "index": [n.index for n in neurons],
                "delta": [n.delta for n in neurons],
                "delta_low": self.delta_low,
                "delta_high": self.delta_high,
                "frequency": self.frequency,
            }
        )

    def core(self, share: float = 0.8) -> Circuit:
        """The neurons that at least `share` of the bootstrap circuits have."""
        kept = [n for n, f in zip(self.circuit.neurons, self.frequency, strict=True) if f >= share]
        circuit = self.circuit
        return Circuit(
            circuit.shape, kept, circuit.provenance, widths=circuit.widths, experts=circuit.experts
        ).with_provenance(stability_share=share)

    def __repr__(self) -> str:
        low, middle, high = self.half_interval
        return (
            f"Stability({len(self.circuit)} neurons, median frequency "
            f"{np.median(self.frequency):.2f}, split-half Jaccard {middle:.2f} "
            f"[{low:.2f}, {high:.2f}])"
        )

    def _repr_html_(self) -> str:
        rows = []
        for name, (low, middle, high) in (
            ("two random halves of the prompts", self.half_interval),
            ("bootstrap circuit with the circuit", self.bootstrap_interval),
        ):
            rows.append([name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"])
        rows.append(["two random circuits", f"{self.chance_jaccard:.2g}", ""])
        head = lead(
            f"Stability of {len(self.circuit):,} neurons",
            f"over {self.n_positive} "
            f"positive and {self.n_negative} negative prompts; "
            f"{int((self.frequency >= 0.8).sum()):,} neurons are in at least 80 % of "
            f"{len(self.bootstrap_jaccard):,} bootstrap circuits",
        )
        overlap = rows_html(["Jaccard", "median", "95 % of draws"], rows, text_columns=(0,))
        return panel([head, overlap, frame_html(self.table, caption="Neurons", most=10)])


def stability(
    model: Model | Recordings,
    positive: Prompts | None = None,
    negative: Prompts | None = None,
    *,
    k: int | None = None,
    fraction: float = 0.001,
    n_bootstrap: int = 200,
    n_halves: int = 200,
    seed: int = 0,
    paired: bool = False,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Stability:
    """Selection frequency of each neuron over a bootstrap of the prompts, and split-half overlap.

    The prompts are recorded once; each draw is then a weighted mean of the recordings in float64.
    Prompts are drawn with replacement within each set. Halves are disjoint and hold half of each
    set, so their circuits come from fewer prompts than the circuit itself: split-half Jaccard
    understates how well the full prompt sets would repeat. The universal neurons stay the same
    in every draw.

    Knows the ranking by mean difference only: the circuit is the one of `cna.discover` with its
    default `ranking`, and so is the circuit of every draw.

    Intervals of delta are those of neurons that were chosen for their delta on the same prompts, and
    so lie outwards of what new prompts would give.

    Args:
        paired: whether the i-th positive prompt belongs to the i-th negative one: pairs are then
            drawn and halved together.
        model: the model, with `positive` and `negative` prompts; or the `Recordings` of both.
        k, fraction, universal, chat: as in `cna.discover`.
    Raises:
        ValueError: fewer than two prompts in a set, or bad numbers.
    """
    data = gather(model, positive, negative, universal, chat, batch_size, progress)
    whole_number(n_bootstrap, 1, "n_bootstrap", "stability")
    whole_number(n_halves, 0, "n_halves", "stability")
    n, m = len(data.positive), len(data.negative)
    if min(n, m) < 2:
        raise ValueError(
            f"stability: expected at least 2 prompts per set, got {n} positive and {m} negative; "
            "add prompts"
        )
    if paired and n != m:
        raise ValueError(
            f"stability: expected as many positive as negative prompts with paired=True, got {n} and "
            f"{m}; pair them, or leave it out"
        )
    excluded = data.left_out()
    neurons = data.n_neurons
    size = circuit_size(neurons, fraction, k, excluded=len(data.excluded), function="stability")
    acts = np.concatenate([data.positive, data.negative])
    rng = np.random.default_rng(seed)

    def select(delta: Floats) -> Ints:
        strength = np.abs(delta)
        strength[excluded] = -1.0
        return top_places(strength, size)

    whole = np.concatenate([np.full(n, 1.0 / n), np.full(m, -1.0 / m)])[None]
    delta = next(contrasts(whole, acts))[1][0]
    circuit = make_circuit(
        delta,
        select(delta),
        data,
        {"method": "mean_difference", "k": size, "n_positive": n, "n_negative": m, "seed": seed},
    )
    order = np.asarray([x.layer * data.shape[1] + x.index for x in circuit.neurons], dtype=np.int64)
    frequency, deltas, jaccard = _bootstrap(
        _resampled(n, m, n_bootstrap, paired, rng), acts, order, select
    )
    low, high = np.percentile(deltas, [2.5, 97.5], axis=0)
    return Stability(
        circuit=circuit,
        frequency=frequency,
        delta_low=low,
        delta_high=high,
        bootstrap_jaccard=jaccard,
        half_jaccard=_halves(acts, n, m, n_halves, paired, rng, select, size),
        chance_jaccard=size / (2 * (neurons - len(excluded)) - size),
        n_positive=n,
        n_negative=m,
        seed=seed,
    )


def _resampled(n: int, m: int, n_bootstrap: int, paired: bool, rng: np.random.Generator) -> Floats:
    """Weights [n_bootstrap, n + m] of the contrast when each set is drawn anew, with replacement."""
    left = rng.multinomial(n, np.full(n, 1 / n), n_bootstrap) / n
    right = left if paired else rng.multinomial(m, np.full(m, 1 / m), n_bootstrap) / m
    return np.concatenate([left, -right], axis=1)


def _bootstrap(
    draws: Floats, acts: Floats, order: Ints, select: Select
) -> tuple[Floats, Floats, Floats]:
    """Of the circuit's neurons `order`: share of draws with each, its deltas; Jaccard of each draw."""
    size = len(order)
    chosen = np.zeros(acts[0].size, dtype=np.int64)
    member = np.zeros(acts[0].size, dtype=np.bool_)
    member[order] = True
    deltas = np.empty((len(draws), size))
    jaccard = np.empty(len(draws))
    for start, block in contrasts(draws, acts):
        for i, row in enumerate(block, start=start):
            found = select(row)
            chosen[found] += 1
            deltas[i] = row[order]
            jaccard[i] = _jaccard(int(member[found].sum()), size)
    return chosen[order] / len(draws), deltas, jaccard


def _halves(
    acts: Floats,
    n: int,
    m: int,
    n_halves: int,
    paired: bool,
    rng: np.random.Generator,
    select: Select,
    size: int,
) -> Floats:
    first = np.zeros((n_halves, n + m), dtype=np.bool_)
    for row in first:
        row[rng.permutation(n)[: n // 2]] = True
        if paired:
            row[n:] = row[:n]
        else:
            row[n + rng.permutation(m)[: m // 2]] = True
    weights = [_half_weights(part, n) for part in (first, ~first)]
    both = np.stack(weights, axis=1).reshape(2 * n_halves, n + m)
    found: list[Ints] = []
    for _, block in contrasts(both, acts):
        found += [select(row) for row in block]
    return np.asarray(
        [
            _jaccard(len(np.intersect1d(a, b, assume_unique=True)), size)
            for a, b in zip(found[::2], found[1::2], strict=True)
        ],
        dtype=np.float64,
    )


def _half_weights(part: Bools, n: int) -> Floats:
    left, right = part[:, :n].astype(np.float64), part[:, n:].astype(np.float64)
    left /= np.maximum(left.sum(axis=1, keepdims=True), 1)
    right /= np.maximum(right.sum(axis=1, keepdims=True), 1)
    return np.concatenate([left, -right], axis=1)


def _jaccard(shared: int, size: int) -> float:
    return shared / (2 * size - shared)


def _quantiles(values: Floats) -> tuple[float, float, float]:
    if not len(values):
        return (float("nan"),) * 3
    low, middle, high = np.percentile(values, [2.5, 50, 97.5])
    return float(low), float(middle), float(high)
