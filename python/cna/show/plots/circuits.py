"""Figures of circuits: neurons per layer, each neuron, overlap of two, stability of one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..._core import Circuit, compare
from ...analysis import Stability
from .style import (
    COLOURS,
    FAINT,
    INK,
    SIGN,
    dress,
    layer_axis,
    layer_ticks,
    legend,
    new_figure,
    one_axes,
    spare_colour,
)


def layer_histogram(circuits: Circuit | Mapping[str, Circuit], *, share: bool = False) -> Figure:
    """Neurons per layer, for one circuit or several by name.

    Args:
        share: per cent of each circuit instead of counts; useful where circuits differ in size.
    Raises:
        ValueError: no circuit.
    """
    named = dict(circuits) if isinstance(circuits, Mapping) else {"": circuits}
    if not named:
        raise ValueError("layer_histogram: expected at least one circuit, got none; pass one")
    layers = max(int(c.shape[0]) for c in named.values())
    fig, ax = one_axes(min(10.0, max(5.5, 0.16 * layers + 2.6)), 3.2)
    wide = 0.86 / len(named)
    for i, (name, circuit) in enumerate(named.items()):
        counts = np.asarray(circuit.layer_counts, dtype=np.float64)
        if share:
            counts = 100 * counts / max(counts.sum(), 1)
        at = np.arange(len(counts)) + (i - (len(named) - 1) / 2) * wide
        label = f"{name} ({len(circuit)})" if name else None
        ax.bar(at, counts, wide, color=spare_colour(i), label=label, linewidth=0)
    layer_axis(ax, layers, share)
    one = next(iter(named.values()))
    title = "Neurons per layer"
    if len(named) == 1 and len(one):
        late = 100 * one.share_in_last_layers(3)
        title += f": {len(one)} in all, {late:.0f} % in the last three layers"
    dress(ax, title, grid="y")
    legend(ax)
    return fig


def neuron_strip(circuit: Circuit) -> Figure:
    """Each neuron by layer and index; the colour is the sign of delta, size and shade its size."""
    layers, width = circuit.shape
    fig, ax = one_axes(8.0, min(7.5, max(2.4, 0.13 * layers + 1.4)))
    neurons = circuit.neurons
    delta = np.asarray([n.delta for n in neurons], dtype=np.float64)
    top = float(np.abs(delta).max()) if len(delta) else 1.0
    top = top or 1.0
    order = np.argsort(np.abs(delta), kind="stable")
    drawn = ax.scatter(
        np.asarray([n.index for n in neurons], dtype=np.float64)[order],
        np.asarray([n.layer for n in neurons], dtype=np.float64)[order],
        c=delta[order],
        s=14 + 66 * (np.abs(delta[order]) / top),
        cmap=SIGN,
        norm=TwoSlopeNorm(0.0, -top, top),
        edgecolors=INK,
        linewidths=0.4,
        zorder=3,
    )
    ax.set_xlim(-0.015 * width, 1.015 * width)
    ax.set_ylim(-0.8, layers - 0.2)
    ax.set_yticks(layer_ticks(layers))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.set_xlabel("neuron index within the layer")
    ax.set_ylabel("layer")
    positive = int((delta > 0).sum())
    many = "neuron" if len(delta) == 1 else "neurons"
    title = f"{len(delta)} {many}: {positive} with delta above 0, {len(delta) - positive} below"
    dress(ax, title, grid="both")
    bar = fig.colorbar(drawn, ax=ax, pad=0.015, fraction=0.035)
    bar.set_label("delta [units of activation]", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return fig


def overlap(a: Circuit, b: Circuit, *, names: tuple[str, str] = ("first", "second")) -> Figure:
    """Two circuits of one model by layer: neurons in the first only, in both, in the second only.

    Raises ValueError where the circuits are of grids of different shape.
    """
    both = compare(a, b)
    layers = int(a.shape[0])
    parts = (
        (f"{names[0]} only", a - b, COLOURS["cna"], ""),
        ("both", a & b, INK, ""),
        (f"{names[1]} only", b - a, COLOURS["caa"], "///"),
    )
    fig, ax = one_axes(min(10.0, max(6.0, 0.16 * layers + 2.6)), 3.4)
    base = np.zeros(layers)
    for label, part, colour, hatch in parts:
        counts = np.asarray(part.layer_counts, dtype=np.float64)
        ax.bar(
            np.arange(layers),
            counts,
            0.82,
            bottom=base,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.3,
            label=f"{label} ({len(part)})",
        )
        base += counts
    layer_axis(ax, layers)
    p = f"{both.p_value:.2g}" if both.p_value > 0 else f"10^{both.log10_p_value:.0f}"
    title = f"{both.shared} of {both.left} and {both.right} neurons shared"
    dress(ax, f"{title}: Jaccard {both.jaccard:.3f}, p = {p}", grid="y")
    legend(ax)
    return fig


def stability(result: Stability) -> Figure:
    """How often resampled prompts choose each neuron, and the overlap of random halves."""
    halves = len(result.half_jaccard) > 0
    fig = new_figure(9.0 if halves else 5.5, 3.3)
    axes = fig.subplots(1, 2 if halves else 1, squeeze=False)[0]
    ax = axes[0]
    order = np.argsort(-result.frequency, kind="stable")
    values = 100 * result.frequency[order]
    rank = np.arange(1, len(values) + 1)
    ax.fill_between(rank, values, step="mid", color=COLOURS["cna"], alpha=0.18, linewidth=0)
    ax.plot(rank, values, drawstyle="steps-mid", color=COLOURS["cna"], linewidth=1.8)
    ax.axhline(80, color=FAINT, linewidth=1, linestyle="--")
    kept = int((result.frequency >= 0.8).sum())
    ax.set_xlim(0.5, max(len(values) + 0.5, 1.5))
    ax.set_ylim(0, 104)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    ax.set_xlabel("neurons of the circuit, most often chosen first")
    ax.set_ylabel("chosen in bootstrap circuits [%]")
    dress(ax, f"{kept} of {len(values)} neurons in 80 % or more", grid="y")
    if halves:
        ax = axes[1]
        low, middle, high = result.half_interval
        bins = np.linspace(0, 1, 26)
        ax.hist(result.half_jaccard, bins=bins.tolist(), color=COLOURS["cna"], alpha=0.75)
        ax.axvline(middle, color=INK, linewidth=1.6, label=f"median {middle:.2f}")
        ax.axvspan(
            low, high, color=INK, alpha=0.1, linewidth=0, label=f"95 %: {low:.2f} to {high:.2f}"
        )
        ax.axvline(
            result.chance_jaccard,
            color=COLOURS["caa"],
            linewidth=1.6,
            linestyle=":",
            label=f"chance {result.chance_jaccard:.2g}",
        )
        ax.set_xlim(0, 1)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.set_xlabel("Jaccard of the circuits of two halves")
        ax.set_ylabel("random splits of the prompts")
        dress(ax, "Split-half overlap", grid="y")
        legend(ax)
    return fig
