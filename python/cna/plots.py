"""Figures of circuits and sweeps: static, off-line, legible to colour-blind readers.

Every function returns a matplotlib Figure made without pyplot, so nothing global changes; it shows
itself in a notebook, and `save` writes it. A sweep's table has one row per (method, layer,
strength); missing columns and NaN leave gaps, never errors, unless nothing is left to draw.
"""

from __future__ import annotations

import io
import itertools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ._core import Circuit, compare
from .analysis import Stability

__all__ = [
    "dose_response",
    "layer_histogram",
    "matched_kl",
    "neuron_strip",
    "overlap",
    "png",
    "quality_against_effect",
    "save",
    "stability",
]

# Okabe and Ito's palette, told apart with every common colour blindness; markers repeat the code.
_COLOURS = {
    "cna": "#0072B2",
    "caa": "#D55E00",
    "caa-mlp": "#CC79A7",
    "random": "#6E6E6E",
    "no-filter": "#009E73",
}
_SPARE = ("#E69F00", "#56B4E9", "#8C6D00", "#000000", "#7F5FA8")
_MARKERS = {"cna": "o", "caa": "s", "caa-mlp": "D", "random": "X", "no-filter": "^"}
_LABELS = {
    "cna": "CNA",
    "caa": "CAA",
    "caa-mlp": "CAA, MLP outputs",
    "random": "random neurons",
    "no-filter": "CNA, no universal filter",
}
_INK, _FAINT = "#222222", "#6B6B6B"
_SIGN = LinearSegmentedColormap.from_list(
    "sign", ["#0B4F8A", "#1F8FB4", "#C9C9C9", "#E08A3C", "#B34700"]
)
_SUFFIXES = (".png", ".svg", ".pdf")


class _Static(Figure):
    """A figure that shows itself in a notebook without pyplot."""

    def _repr_png_(self) -> bytes:
        return _bytes(self, "png", 110)


def save(fig: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Writes a figure as .png, .svg or .pdf: the whole file is there afterwards, or the old one.

    Raises ValueError for another ending or a folder that is not there; RuntimeError if the file
    cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _SUFFIXES:
        raise ValueError(
            f"save: expected a path ending in {', '.join(_SUFFIXES)}, got '{path}'; choose one"
        )
    if not path.parent.is_dir():
        raise ValueError(f"save: expected a folder '{path.parent}', found none; make it first")
    data = _bytes(fig, kind[1:], dpi)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise RuntimeError(
            f"save: expected to write '{path}', got: {reason}; check the path"
        ) from None
    return path


def png(fig: Figure, *, dpi: int = 130) -> bytes:
    """A figure as the bytes of a PNG image."""
    return _bytes(fig, "png", dpi)


# --- circuits -----------------------------------------------------------------------------------


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
    fig, ax = _figure(min(10.0, max(5.5, 0.16 * layers + 2.6)), 3.2)
    wide = 0.86 / len(named)
    for i, (name, circuit) in enumerate(named.items()):
        counts = np.asarray(circuit.layer_counts, dtype=np.float64)
        if share:
            counts = 100 * counts / max(counts.sum(), 1)
        at = np.arange(len(counts)) + (i - (len(named) - 1) / 2) * wide
        label = f"{name} ({len(circuit)})" if name else None
        ax.bar(at, counts, wide, color=_spare_colour(i), label=label, linewidth=0)
    ax.set_xlim(-0.7, layers - 0.3)
    ax.set_xticks(_layer_ticks(layers))
    if not share:
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel("neurons of the circuit [%]" if share else "neurons")
    one = next(iter(named.values()))
    title = "Neurons per layer"
    if len(named) == 1 and len(one):
        late = 100 * one.share_in_last_layers(3)
        title += f": {len(one)} in all, {late:.0f} % in the last three layers"
    _style(ax, title, grid="y")
    _legend(ax)
    return fig


def neuron_strip(circuit: Circuit) -> Figure:
    """Each neuron by layer and index; the colour is the sign of delta, size and shade its size."""
    layers, width = circuit.shape
    fig, ax = _figure(8.0, min(7.5, max(2.4, 0.13 * layers + 1.4)))
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
        cmap=_SIGN,
        norm=TwoSlopeNorm(0.0, -top, top),
        edgecolors=_INK,
        linewidths=0.4,
        zorder=3,
    )
    ax.set_xlim(-0.015 * width, 1.015 * width)
    ax.set_ylim(-0.8, layers - 0.2)
    ax.set_yticks(_layer_ticks(layers))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.set_xlabel("neuron index within the layer")
    ax.set_ylabel("layer")
    positive = int((delta > 0).sum())
    many = "neuron" if len(delta) == 1 else "neurons"
    title = f"{len(delta)} {many}: {positive} with delta above 0, {len(delta) - positive} below"
    _style(ax, title, grid="both")
    bar = fig.colorbar(drawn, ax=ax, pad=0.015, fraction=0.035)
    bar.set_label("delta [units of activation]", fontsize=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_INK)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return fig


def overlap(a: Circuit, b: Circuit, *, names: tuple[str, str] = ("first", "second")) -> Figure:
    """Two circuits of one model by layer: neurons in the first only, in both, in the second only.

    Raises ValueError where the circuits are of grids of different shape.
    """
    both = compare(a, b)
    layers = int(a.shape[0])
    parts = (
        (f"{names[0]} only", a - b, _COLOURS["cna"], ""),
        ("both", a & b, _INK, ""),
        (f"{names[1]} only", b - a, _COLOURS["caa"], "///"),
    )
    fig, ax = _figure(min(10.0, max(6.0, 0.16 * layers + 2.6)), 3.4)
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
    ax.set_xlim(-0.7, layers - 0.3)
    ax.set_xticks(_layer_ticks(layers))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel("neurons")
    p = f"{both.p_value:.2g}" if both.p_value > 0 else f"10^{both.log10_p_value:.0f}"
    title = f"{both.shared} of {both.left} and {both.right} neurons shared"
    _style(ax, f"{title}: Jaccard {both.jaccard:.3f}, p = {p}", grid="y")
    _legend(ax)
    return fig


def stability(result: Stability) -> Figure:
    """How often resampled prompts choose each neuron, and the overlap of random halves."""
    halves = len(result.half_jaccard) > 0
    fig = _new(9.0 if halves else 5.5, 3.3)
    axes = fig.subplots(1, 2 if halves else 1, squeeze=False)[0]
    ax = axes[0]
    order = np.argsort(-result.frequency, kind="stable")
    values = 100 * result.frequency[order]
    rank = np.arange(1, len(values) + 1)
    ax.fill_between(rank, values, step="mid", color=_COLOURS["cna"], alpha=0.18, linewidth=0)
    ax.plot(rank, values, drawstyle="steps-mid", color=_COLOURS["cna"], linewidth=1.8)
    ax.axhline(80, color=_FAINT, linewidth=1, linestyle="--")
    kept = int((result.frequency >= 0.8).sum())
    ax.set_xlim(0.5, max(len(values) + 0.5, 1.5))
    ax.set_ylim(0, 104)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    ax.set_xlabel("neurons of the circuit, most often chosen first")
    ax.set_ylabel("chosen in bootstrap circuits [%]")
    _style(ax, f"{kept} of {len(values)} neurons in 80 % or more", grid="y")
    if halves:
        ax = axes[1]
        low, middle, high = result.half_interval
        bins = np.linspace(0, 1, 26)
        ax.hist(result.half_jaccard, bins=bins.tolist(), color=_COLOURS["cna"], alpha=0.75)
        ax.axvline(middle, color=_INK, linewidth=1.6, label=f"median {middle:.2f}")
        ax.axvspan(
            low, high, color=_INK, alpha=0.1, linewidth=0, label=f"95 %: {low:.2f} to {high:.2f}"
        )
        ax.axvline(
            result.chance_jaccard,
            color=_COLOURS["caa"],
            linewidth=1.6,
            linestyle=":",
            label=f"chance {result.chance_jaccard:.2g}",
        )
        ax.set_xlim(0, 1)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.set_xlabel("Jaccard of the circuits of two halves")
        ax.set_ylabel("random splits of the prompts")
        _style(ax, "Split-half overlap", grid="y")
        _legend(ax)
    return fig


# --- sweeps -------------------------------------------------------------------------------------


def dose_response(table: pd.DataFrame) -> Figure:
    """Behaviour rate against strength with Wilson intervals, a line per method and layer.

    Neuron methods stand over the multiplier m (1 is the model itself), CAA over its coefficient (0
    is the model itself), each on an axis of its own; the benign rate is dashed.
    Raises ValueError for a table without method, strength and rate.
    """
    table = _checked(table, ("rate",), "dose_response")
    sides = [
        ("multiplier m of the circuit's neurons (1: unsteered, 0: ablated)", False, 1.0),
        ("coefficient of the added vector (0: unsteered)", True, 0.0),
    ]
    sides = [s for s in sides if (table["method"].map(_is_added) == s[1]).any()]
    fig = _new(5.6 * len(sides) + 0.4, 4.0)
    axes = fig.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for ax, (label, added, neutral) in zip(axes, sides, strict=True):
        part = table[table["method"].map(_is_added) == added]
        ax.axvline(neutral, color=_FAINT, linewidth=1, linestyle=":", zorder=1)
        lines = list(_lines(part))
        for line in lines:
            rows = line.rows
            x = rows["strength"].to_numpy(dtype=np.float64)
            y = 100 * rows["rate"].to_numpy(dtype=np.float64)
            low, high = _bounds(rows, "rate_low", "rate_high", y)
            if len(lines) <= 3:
                ax.fill_between(x, low, high, color=line.colour, alpha=0.13, linewidth=0)
            else:
                ax.vlines(x, low, high, color=line.colour, alpha=0.45, linewidth=1.4, zorder=2)
            ax.plot(x, y, label=line.label, **line.look)
            if "benign_rate" in rows and rows["benign_rate"].notna().any():
                benign = 100 * rows["benign_rate"].to_numpy(dtype=np.float64)
                ax.plot(x, benign, color=line.colour, linewidth=1.3, linestyle="--", alpha=0.9)
        if "benign_rate" in part and part["benign_rate"].notna().any():
            ax.plot([], [], color=_FAINT, linewidth=1.3, linestyle="--", label="benign prompts")
        ax.set_xlabel(label)
        ax.set_ylim(-3, 103)
        name = "Adding a steering vector" if added else "Scaling neurons"
        _style(ax, name, grid="both")
        _legend(ax, below=True)
    axes[0].set_ylabel("answers with the behaviour [%]")
    return fig


def quality_against_effect(table: pd.DataFrame) -> Figure:
    """Text quality against the fall of the behaviour rate, CNA and CAA on one figure.

    Upper right is better: the behaviour gone, the text whole. Thin bars are 95 % intervals of the
    quality; labels are strengths: m for neurons, c for the added vectors that no other setting of
    the method beats in both effect and quality.
    Raises ValueError for a table without rate and quality, or without an unsteered row.
    """
    table = _with_reduction(
        _checked(table, ("rate", "quality"), "quality_against_effect"), "quality_against_effect"
    )
    fig, ax = _figure(7.2, 4.6)
    for line in _lines(table):
        x = line.rows["reduction"].to_numpy(dtype=np.float64)
        y = line.rows["quality"].to_numpy(dtype=np.float64)
        low, high = _bounds(line.rows, "quality_low", "quality_high", y, scale=1.0)
        ax.vlines(x, low, high, color=line.colour, alpha=0.3, linewidth=1.4, zorder=2)
        ax.plot(x, y, label=line.label, **line.look)
    base = table.attrs["baseline"]
    ax.axvline(0, color=_FAINT, linewidth=1, linestyle=":", zorder=1)
    ax.set_xlabel(f"fall of the behaviour rate from {100 * base:.0f} % [percentage points]")
    ax.set_ylabel("quality [1 − share of repeated word 4-grams]")
    ax.margins(0.08)
    _style(ax, "Quality against effect", grid="both")
    _legend(ax, below=True)
    _place(fig, ax, _strength_texts(table))
    return fig


def matched_kl(table: pd.DataFrame) -> Figure:
    """Fall of the behaviour rate against KL to the unsteered model, to compare at equal KL.

    Points are settings; the step line of a method is its best setting at that KL or less. More
    settings tried make a better step line, so compare methods swept equally finely.
    Rows without KL, or with none (the unsteered model), are left out.
    Raises ValueError for a table without rate and kl, or without an unsteered row.
    """
    table = _with_reduction(_checked(table, ("rate", "kl"), "matched_kl"), "matched_kl")
    table = table[table["kl"] > 0]
    if table.empty:
        raise ValueError(
            "matched_kl: expected rows with a KL above 0, got none; measure the KL in the sweep"
        )
    fig, ax = _figure(7.2, 4.6)
    most = float(table["kl"].max())
    texts: list[tuple[float, float, str, str]] = []
    for method, rows in table.groupby("method", sort=False):
        rows = rows.sort_values("kl")
        colour = _colour(str(method))
        x = rows["kl"].to_numpy(dtype=np.float64)
        y = rows["reduction"].to_numpy(dtype=np.float64)
        best = np.maximum.accumulate(y)
        ax.plot([*x, most], [*best, best[-1]], drawstyle="steps-post", color=colour, linewidth=1.8)
        ax.plot(
            x,
            y,
            linestyle="none",
            marker=_MARKERS.get(str(method), "o"),
            color=colour,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=_name(str(method)),
        )
        lead = [i for i in range(len(y)) if y[i] > 0 and (i == 0 or y[i] > best[i - 1])]
        for i in lead if method != "random" else []:
            texts.append((x[i], y[i], _setting(rows.iloc[i]), colour))
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.axhline(0, color=_FAINT, linewidth=1, linestyle=":", zorder=1)
    base = table.attrs["baseline"]
    ax.set_xlabel("KL(unsteered || steered) on unsteered answers [nats per token]")
    ax.set_ylabel(f"fall of the rate from {100 * base:.0f} % [points]")
    ax.margins(0.07)
    _style(ax, "Effect at equal KL; line: best setting up to there", grid="both")
    _legend(ax, below=True)
    _place(fig, ax, texts)
    return fig


# --- tables -------------------------------------------------------------------------------------


class _Line:
    """The rows of one method at one layer, by strength, and how to draw them."""

    def __init__(self, method: str, layer: int | None, rows: pd.DataFrame, place: float) -> None:
        self.method, self.layer = method, layer
        self.rows = rows.sort_values("strength")
        self.label = _name(method) + ("" if layer is None else f", layer {layer}")
        base = np.asarray(to_rgb(_colour(method)))
        # Layers of one method: from the plain colour towards white.
        self.colour: Any = tuple(base + (1 - base) * 0.62 * place)
        self.look: dict[str, Any] = {
            "color": self.colour,
            "marker": _MARKERS.get(method, "o"),
            "linewidth": 1.8,
            "markersize": 5.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "zorder": 3,
        }


def _lines(table: pd.DataFrame) -> Iterator[_Line]:
    for method, rows in table.groupby("method", sort=False):
        layers = rows["layer"].astype("Float64") if "layer" in rows else None
        if layers is None or not layers.notna().any():
            yield _Line(str(method), None, rows, 0.0)
            continue
        found = sorted(int(x) for x in layers.dropna().unique())
        for i, layer in enumerate(found):
            place = i / (len(found) - 1) if len(found) > 1 else 0.0
            line = _Line(str(method), layer, rows[(layers == layer).fillna(False)], place)
            if len(found) > 6 and 0 < i < len(found) - 1:
                line.label = "_"  # shades between the first and the last layer explain themselves
            yield line
        rest = rows[layers.isna()]
        if len(rest):
            yield _Line(str(method), None, rest, 0.0)


def _checked(table: pd.DataFrame, columns: Sequence[str], caller: str) -> pd.DataFrame:
    """The rows that have a method, a strength and all of `columns`, numbers as floats."""
    needed = ("method", "strength", *columns)
    missing = [c for c in needed if c not in table.columns]
    if missing:
        raise ValueError(
            f"{caller}: expected the columns {', '.join(needed)}, got none named "
            f"{', '.join(missing)}; pass the table of a sweep"
        )
    out = table.copy()
    for column in out.columns.difference(["method", "layer"]):
        out[column] = pd.to_numeric(out[column], errors="coerce").astype(np.float64)
    if "layer" in out:
        out["layer"] = pd.to_numeric(out["layer"], errors="coerce")
    out = out.replace([np.inf, -np.inf], np.nan).dropna(subset=list(needed))
    if out.empty:
        raise ValueError(
            f"{caller}: expected rows with {', '.join(needed)}, got none; run the sweep again"
        )
    out["method"] = out["method"].astype(str)
    return out.reset_index(drop=True)


def _with_reduction(table: pd.DataFrame, caller: str) -> pd.DataFrame:
    """Adds `reduction`, the fall of the rate from the unsteered one in percentage points."""
    added = table["method"].map(_is_added)
    neutral = np.where(added, 0.0, 1.0)
    plain = table[(table["strength"] == neutral) | (table["method"] == "unsteered")]
    if plain.empty:
        raise ValueError(
            f"{caller}: expected an unsteered row (multiplier 1 or coefficient 0), got none; add "
            "it to the sweep"
        )
    base = float(plain["rate"].iloc[0])
    out = table.assign(reduction=100 * (base - table["rate"]))
    out.attrs["baseline"] = base
    return out


def _bounds(
    rows: pd.DataFrame, low: str, high: str, y: npt.NDArray[Any], scale: float = 100.0
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if low not in rows or high not in rows:
        return y, y
    return tuple(scale * rows[c].to_numpy(dtype=np.float64) for c in (low, high))  # type: ignore[return-value]


def _is_added(method: str) -> bool:
    return str(method).startswith("caa")


def _name(method: str) -> str:
    return _LABELS.get(method, method)


def _colour(method: str) -> str:
    if method in _COLOURS:
        return _COLOURS[method]
    return _SPARE[sum(map(ord, method)) % len(_SPARE)]


def _spare_colour(i: int) -> str:
    colours = (_COLOURS["cna"], _COLOURS["caa"], _COLOURS["no-filter"], _COLOURS["caa-mlp"])
    return (*colours, *_SPARE)[i % (len(colours) + len(_SPARE))]


def _setting(row: pd.Series) -> str:
    strength = f"{row['strength']:g}".replace("-", "−")
    if not _is_added(row["method"]):
        return f"m = {strength}"
    layer = row.get("layer")
    return f"c = {strength}" + ("" if layer is None or pd.isna(layer) else f", layer {layer:.0f}")


def _strength_texts(table: pd.DataFrame) -> list[tuple[float, float, str, str]]:
    """Labels of steered points; of added vectors, only those that no other setting beats."""
    out = []
    for method, rows in table.groupby("method", sort=False):
        added = _is_added(method)
        rows = rows[rows["strength"] != (0.0 if added else 1.0)]
        x, y = (rows[c].to_numpy(dtype=np.float64) for c in ("reduction", "quality"))
        for i in range(len(rows) if method != "random" else 0):
            beaten = (x >= x[i]) & (y >= y[i]) & ((x > x[i]) | (y > y[i]))
            if not (added and (beaten.any() or x[i] <= 0)):
                out.append((float(x[i]), float(y[i]), _setting(rows.iloc[i]), _colour(str(method))))
    return out


# --- style --------------------------------------------------------------------------------------


def _new(width: float, height: float) -> Figure:
    fig = _Static(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    fig = _new(width, height)
    return fig, fig.subplots()


def _style(ax: Axes, title: str, grid: str) -> None:
    ax.set_title(title, fontsize=10.5, color=_INK, loc="left", pad=8)
    ax.set_facecolor("white")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9A9A9A")
    ax.tick_params(labelsize=9, colors=_INK, color="#9A9A9A")
    ax.xaxis.label.set(fontsize=9.5, color=_INK)
    ax.yaxis.label.set(fontsize=9.5, color=_INK)
    ax.grid(True, axis=grid, color="#E3E3E3", linewidth=0.7)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def _legend(ax: Axes, below: bool = False) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    if not below:
        ax.legend(fontsize=9, frameon=False, labelcolor=_INK)
        return
    columns = 2 if len(labels) <= 6 else 3
    ax.legend(
        handles,
        labels,
        fontsize=9,
        frameon=False,
        labelcolor=_INK,
        ncols=min(columns, len(labels)),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        borderaxespad=0.0,
    )


def _place(fig: Figure, ax: Axes, texts: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes small labels beside points, off the points, the lines and each other.

    Where nothing is free, a multiplier's label may lie on a line and others are left out.
    """
    canvas = fig.canvas
    canvas.draw()
    renderer = canvas.get_renderer()  # type: ignore[attr-defined]
    points = np.asarray([ax.transData.transform((x, y)) for x, y, _, _ in texts]).reshape(-1, 2)
    strokes = _strokes(ax)
    frame = ax.get_window_extent(renderer)
    taken: list[Any] = []
    seen: set[tuple[int, int, str]] = set()
    gaps = [(7, 5), (-7, 5), (7, -11), (-7, -11), (0, 9), (0, -16), (9, -3), (-9, -3)]
    gaps += [(16, 14), (-16, 14), (16, -20), (-16, -20)]
    for (x, y, text, colour), at in zip(texts, points, strict=True):
        key = (round(at[0] / 3), round(at[1] / 3), text)
        if key in seen:
            continue
        seen.add(key)
        label = ax.annotate(
            text, (x, y), (0, 0), textcoords="offset points", fontsize=8, color=colour, zorder=4
        )
        label.set_in_layout(False)
        passes = [(strokes, gaps), (points, gaps[:8])]
        for avoid, choices in passes if text.startswith("m") else passes[:1]:
            placed = False
            for dx, dy in choices:
                label.set_position((dx, dy))
                label.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
                box = label.get_window_extent(renderer).padded(2)
                inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
                inside = inside and box.y1 <= frame.y1
                if inside and not any(box.overlaps(other) for other in taken):
                    if not (_inside(box, avoid) or _inside(box.padded(2), points)):
                        placed = True
                        taken.append(box)
                        break
            if placed:
                break
        else:
            label.remove()


def _inside(box: Any, points: npt.NDArray[Any]) -> bool:
    x, y = points[:, 0], points[:, 1]
    return bool(((box.x0 < x) & (x < box.x1) & (box.y0 < y) & (y < box.y1)).any())


def _strokes(ax: Axes) -> npt.NDArray[Any]:
    """Pixels along every line of the axes [n, 2], some 4 apart."""
    out: list[npt.NDArray[Any]] = [np.empty((0, 2))]
    for line in ax.get_lines():
        if line.get_transform() != ax.transData or len(line.get_xdata()) < 2:  # type: ignore[arg-type]
            continue
        xy = ax.transData.transform(np.asarray(line.get_xydata()))
        if line.get_drawstyle() == "steps-post":
            corners = np.column_stack([xy[1:, 0], xy[:-1, 1]])
            xy = np.insert(xy, np.arange(1, len(xy)), corners, axis=0)
        if line.get_linestyle() == "None":
            out.append(xy)
            continue
        for a, b in itertools.pairwise(xy):
            steps = max(2, int(np.hypot(*(b - a)) / 4))
            out.append(a + (b - a) * np.linspace(0, 1, steps)[:, None])
    return np.concatenate(out)


def _layer_ticks(layers: int) -> list[int]:
    """About ten layers, the first and the last among them."""
    step = next(s for s in (1, 2, 3, 5, 10, 20, 50, 100, 1000) if layers / s <= 12 or s == 1000)
    last = layers - 1
    return [t for t in range(0, layers, step) if last - t > step / 2] + [last]


def _bytes(fig: Figure, kind: str, dpi: int) -> bytes:
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}.get(
        kind, {"CreationDate": None}
    )
    fig.savefig(buffer, format=kind, dpi=dpi, metadata=metadata, facecolor="white")
    return buffer.getvalue()
