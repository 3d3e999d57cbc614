"""Figures of sweeps: rate against strength, quality against effect, effect at equal KL."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .labels import place_labels
from .style import FAINT, MARKERS, colour_of, dress, label_of, legend, new_figure, one_axes
from .tables import (
    checked,
    interval,
    is_added,
    lines_of,
    setting_text,
    strength_texts,
    with_reduction,
)


def dose_response(table: pd.DataFrame) -> Figure:
    """Behaviour rate against strength with Wilson intervals, a line per method and layer.

    Neuron methods stand over the multiplier m (1 is the model itself), CAA over its coefficient (0
    is the model itself), each on an axis of its own; the benign rate is dashed.
    Raises ValueError for a table without method, strength and rate.
    """
    table = checked(table, ("rate",), "dose_response")
    sides = [
        ("multiplier m of the circuit's neurons (1: unsteered, 0: ablated)", False, 1.0),
        ("coefficient of the added vector (0: unsteered)", True, 0.0),
    ]
    sides = [s for s in sides if (table["method"].map(is_added) == s[1]).any()]
    fig = new_figure(5.6 * len(sides) + 0.4, 4.0)
    axes = fig.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for ax, (label, added, neutral) in zip(axes, sides, strict=True):
        part = table[table["method"].map(is_added) == added]
        ax.axvline(neutral, color=FAINT, linewidth=1, linestyle=":", zorder=1)
        lines = list(lines_of(part))
        for line in lines:
            rows = line.rows
            x = rows["strength"].to_numpy(dtype=np.float64)
            y = 100 * rows["rate"].to_numpy(dtype=np.float64)
            low, high = interval(rows, "rate_low", "rate_high", y)
            if len(lines) <= 3:
                ax.fill_between(x, low, high, color=line.colour, alpha=0.13, linewidth=0)
            else:
                ax.vlines(x, low, high, color=line.colour, alpha=0.45, linewidth=1.4, zorder=2)
            ax.plot(x, y, label=line.label, **line.look)
            if "benign_rate" in rows and rows["benign_rate"].notna().any():
                benign = 100 * rows["benign_rate"].to_numpy(dtype=np.float64)
                ax.plot(x, benign, color=line.colour, linewidth=1.3, linestyle="--", alpha=0.9)
        if "benign_rate" in part and part["benign_rate"].notna().any():
            ax.plot([], [], color=FAINT, linewidth=1.3, linestyle="--", label="benign prompts")
        ax.set_xlabel(label)
        ax.set_ylim(-3, 103)
        name = "Adding a steering vector" if added else "Scaling neurons"
        dress(ax, name, grid="both")
        legend(ax, below=True)
    axes[0].set_ylabel("answers with the behaviour [%]")
    return fig


def quality_against_effect(table: pd.DataFrame) -> Figure:
    """Text quality against the fall of the behaviour rate, CNA and CAA on one figure.

    Upper right is better: the behaviour gone, the text whole. Thin bars are 95 % intervals of the
    quality; labels are strengths: m for neurons, c for the added vectors that no other setting of
    the method beats in both effect and quality.
    Raises ValueError for a table without rate and quality, or without an unsteered row.
    """
    table = with_reduction(
        checked(table, ("rate", "quality"), "quality_against_effect"), "quality_against_effect"
    )
    fig, ax = one_axes(7.2, 4.6)
    for line in lines_of(table):
        x = line.rows["reduction"].to_numpy(dtype=np.float64)
        y = line.rows["quality"].to_numpy(dtype=np.float64)
        low, high = interval(line.rows, "quality_low", "quality_high", y, scale=1.0)
        ax.vlines(x, low, high, color=line.colour, alpha=0.3, linewidth=1.4, zorder=2)
        ax.plot(x, y, label=line.label, **line.look)
    base = table.attrs["baseline"]
    ax.axvline(0, color=FAINT, linewidth=1, linestyle=":", zorder=1)
    ax.set_xlabel(f"fall of the behaviour rate from {100 * base:.0f} % [percentage points]")
    ax.set_ylabel("quality [1 − share of repeated word 4-grams]")
    ax.margins(0.08)
    dress(ax, "Quality against effect", grid="both")
    legend(ax, below=True)
    place_labels(fig, ax, strength_texts(table))
    return fig


def matched_kl(table: pd.DataFrame) -> Figure:
    """Fall of the behaviour rate against KL to the unsteered model, to compare at equal KL.

    Points are settings; the step line of a method is its best setting at that KL or less. More
    settings tried make a better step line, so compare methods swept equally finely.
    Rows without KL, or with none (the unsteered model), are left out.
    Raises ValueError for a table without rate and kl, or without an unsteered row.
    """
    table = with_reduction(checked(table, ("rate", "kl"), "matched_kl"), "matched_kl")
    table = table[table["kl"] > 0]
    if table.empty:
        raise ValueError(
            "matched_kl: expected rows with a KL above 0, got none; measure the KL in the sweep"
        )
    fig, ax = one_axes(7.2, 4.6)
    most = float(table["kl"].max())
    texts: list[tuple[float, float, str, str]] = []
    for method, rows in table.groupby("method", sort=False):
        rows = rows.sort_values("kl")
        colour = colour_of(str(method))
        x = rows["kl"].to_numpy(dtype=np.float64)
        y = rows["reduction"].to_numpy(dtype=np.float64)
        best = np.maximum.accumulate(y)
        ax.plot([*x, most], [*best, best[-1]], drawstyle="steps-post", color=colour, linewidth=1.8)
        ax.plot(
            x,
            y,
            linestyle="none",
            marker=MARKERS.get(str(method), "o"),
            color=colour,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=label_of(str(method)),
        )
        lead = [i for i in range(len(y)) if y[i] > 0 and (i == 0 or y[i] > best[i - 1])]
        for i in lead if method != "random" else []:
            texts.append((x[i], y[i], setting_text(rows.iloc[i]), colour))
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.axhline(0, color=FAINT, linewidth=1, linestyle=":", zorder=1)
    base = table.attrs["baseline"]
    ax.set_xlabel("KL(unsteered || steered) on unsteered answers [nats per token]")
    ax.set_ylabel(f"fall of the rate from {100 * base:.0f} % [points]")
    ax.margins(0.07)
    dress(ax, "Effect at equal KL; line: best setting up to there", grid="both")
    legend(ax, below=True)
    place_labels(fig, ax, texts)
    return fig
