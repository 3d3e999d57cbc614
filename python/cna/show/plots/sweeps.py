"""Figures of sweeps: rate against strength, quality against effect, effect against side effect."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from ...base.later import pd
from ...measure.kinds import KINDS
from .labels import place_labels
from .style import BAND, FAINT, MARKERS, colour_of, dress, label_of, legend, new_figure, one_axes
from .tables import (
    bands_of,
    checked,
    interval,
    lines_of,
    setting_text,
    side_effect,
    strength_texts,
    with_effect,
)

_TITLES = {
    "multiplier": "Scaling neurons",
    "share": "Moving neurons",
    "coefficient": "Adding a steering vector",
    "bias": "A bias on the logits",
    "instruction": "An instruction",
}


def dose_response(table: pd.DataFrame) -> Figure:
    """Behaviour rate against strength with Wilson intervals, a line per method and layer.

    Each kind of strength has axes of its own: the multiplier m of neurons (1 is the model itself),
    the coefficient of added vectors (0 is), of a logit bias; an instruction is there or not. The
    benign rate is dashed, the range of random draws grey.
    Raises ValueError for a table without method, strength and rate.
    """
    table = checked(table, ("rate",), "dose_response")
    units = table["kind"].map(lambda kind: KINDS[kind].unit)
    shown = [unit for unit in _TITLES if (units == unit).any()]
    fig = new_figure(5.6 * len(shown) + 0.4, 4.0)
    axes = fig.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for ax, unit in zip(axes, shown, strict=True):
        part = table[units == unit]
        kind = KINDS[part["kind"].iloc[0]]
        ax.axvline(kind.neutral, color=FAINT, linewidth=1, linestyle=":", zorder=1)
        for label, rows in bands_of(part):
            _rate_band(ax, label, rows)
        lines = list(lines_of(part))
        for line in lines:
            rows = line.rows
            x = rows["strength"].to_numpy(dtype=np.float64)
            y = 100 * rows["rate"].to_numpy(dtype=np.float64)
            low, high = interval(rows, "rate_low", "rate_high", y)
            if len(lines) <= 3 and len(x) > 1:
                ax.fill_between(x, low, high, color=line.colour, alpha=0.13, linewidth=0)
            else:
                ax.vlines(x, low, high, color=line.colour, alpha=0.45, linewidth=1.4, zorder=2)
            ax.plot(x, y, label=line.label, **line.look)
            if "benign_rate" in rows and rows["benign_rate"].notna().any():
                benign = 100 * rows["benign_rate"].to_numpy(dtype=np.float64)
                ax.plot(x, benign, color=line.colour, linewidth=1.3, linestyle="--", alpha=0.9)
        if "benign_rate" in part and part["benign_rate"].notna().any():
            ax.plot([], [], color=FAINT, linewidth=1.3, linestyle="--", label="benign prompts")
        ax.set_xlabel(kind.axis)
        ax.set_ylim(-3, 103)
        dress(ax, _TITLES[unit], grid="both")
        legend(ax, below=True)
    axes[0].set_ylabel("answers with the behaviour [%]")
    return fig


def _rate_band(ax: Axes, label: str, rows: pd.DataFrame) -> None:
    """The range of the draws' rates: over the axis where each has one strength, else by strength."""
    one = "draw" in rows and (rows.groupby("draw", dropna=False)["strength"].nunique() == 1).all()
    by = 100 * rows.groupby("strength")["rate"].agg(["min", "median", "max"])
    look: dict[str, Any] = {"color": BAND, "alpha": 0.35, "linewidth": 0, "zorder": 0.5}
    if len(by) == 1 or one:
        low, high, middle = by["min"].min(), by["max"].max(), by["median"].median()
        if high > low:
            ax.axhspan(low, high, label=label, **look)
        ax.axhline(
            middle, color=FAINT, linewidth=1.1, zorder=0.8, label="_" if high > low else label
        )
        return
    x = by.index.to_numpy(dtype=np.float64)
    ax.fill_between(x, by["min"], by["max"], label=label, **look)
    ax.plot(x, by["median"], color=FAINT, linewidth=1.1, zorder=0.8)


def quality_against_effect(table: pd.DataFrame) -> Figure:
    """Text quality against the effect, all methods on one figure.

    Upper right is better: the behaviour gone, the text whole. Thin bars are 95 % intervals of the
    quality; labels are strengths: m for neurons, c for the added vectors that no other setting of
    the method beats in both effect and quality. The draws of random neurons are grey.
    Raises ValueError for a table without rate and quality, or without an unsteered row.
    """
    table = with_effect(
        checked(table, ("rate", "quality"), "quality_against_effect"), "quality_against_effect"
    )
    fig, ax = one_axes(7.2, 4.6)
    for label, rows in bands_of(table):
        _patch(ax, label, rows["effect"], rows["quality"])
    for line in lines_of(table):
        x = line.rows["effect"].to_numpy(dtype=np.float64)
        y = line.rows["quality"].to_numpy(dtype=np.float64)
        low, high = interval(line.rows, "quality_low", "quality_high", y, scale=1.0)
        ax.vlines(x, low, high, color=line.colour, alpha=0.3, linewidth=1.4, zorder=2)
        ax.plot(x, y, label=line.label, **line.look)
    ax.axvline(0, color=FAINT, linewidth=1, linestyle=":", zorder=1)
    ax.set_xlabel(table.attrs["effect"])
    words = "word_quality" not in table
    ax.set_ylabel(f"quality [1 − share of repeated {'word' if words else 'token'} 4-grams]")
    ax.margins(0.08)
    dress(ax, "Quality against effect", grid="both")
    legend(ax, below=True)
    place_labels(fig, ax, strength_texts(table, "effect", "quality"))
    return fig


def matched_kl(table: pd.DataFrame) -> Figure:
    """Effect against side effect: the KL on benign prompts, to compare methods at equal KL.

    Points are settings; the step line of a method is its best setting at that KL or less, up to the
    largest KL that it was measured at. More settings tried make a better step line, so compare
    methods swept equally finely, or let `SweepResult.choose` choose on other prompts than it shows.
    The draws of random neurons are one grey band. Tables of older runs, which measured no KL on
    benign prompts, are drawn over that on evaluation prompts.
    Rows without KL, or with none (the unsteered model), are left out.
    Raises ValueError for a table without rate and KL, or without an unsteered row.
    """
    table = checked(table, ("rate",), "matched_kl")
    kl, label = side_effect(table, "matched_kl")
    table = with_effect(table.dropna(subset=[kl]), "matched_kl")
    table = table[table[kl] > 0]
    if table.empty:
        raise ValueError(
            "matched_kl: expected rows with a KL above 0, got none; measure the KL in the sweep"
        )
    fig, ax = one_axes(7.2, 4.6)
    texts: list[tuple[float, float, str, str]] = []
    for text, rows in bands_of(table):
        _patch(ax, text, rows[kl], rows["effect"])
    for method, rows in table[table["kind"] != "random"].groupby("method", sort=False):
        rows = rows.sort_values(kl)
        colour = colour_of(str(method))
        x = rows[kl].to_numpy(dtype=np.float64)
        y = rows["effect"].to_numpy(dtype=np.float64)
        best = np.maximum.accumulate(y)
        ax.plot(x, best, drawstyle="steps-post", color=colour, linewidth=1.8)
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
        for i in lead:
            texts.append((x[i], y[i], setting_text(rows.iloc[i]), colour))
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.axhline(0, color=FAINT, linewidth=1, linestyle=":", zorder=1)
    ax.set_xlabel(label)
    ax.set_ylabel(table.attrs["effect"])
    ax.margins(0.07)
    dress(ax, "Effect at equal KL; line: best setting up to there, on these prompts", grid="both")
    legend(ax, below=True)
    place_labels(fig, ax, texts)
    return fig


def _patch(ax: Axes, label: str, x: pd.Series, y: pd.Series) -> None:
    """A grey rectangle over all draws, a cross at their medians."""
    corner = float(x.min()), float(y.min())
    size = float(x.max()) - corner[0], float(y.max()) - corner[1]
    look: dict[str, Any] = {"color": BAND, "alpha": 0.35, "linewidth": 0, "zorder": 0.5}
    ax.add_patch(Rectangle(corner, *size, **look))
    ax.plot(
        [float(x.median())],
        [float(y.median())],
        linestyle="none",
        marker=MARKERS["random"],
        color=FAINT,
        markersize=6,
        label=label,
    )
