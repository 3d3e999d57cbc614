"""The look of every figure: the colour and marker of each method, axes, legends, image bytes."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's palette, told apart with every common colour blindness; markers repeat the code.
COLOURS = {
    "cna": "#0072B2",
    "caa": "#D55E00",
    "caa-mlp": "#CC79A7",
    "caa-answer": "#8C4A00",
    "random": "#6E6E6E",
    "random-kl": "#6E6E6E",
    "no-filter": "#009E73",
    "contribution": "#00856F",
    "delta": "#0072B2",
    "tuned": "#8B1A4A",
    "prompt": "#000000",
    "logit-bias": "#7F5FA8",
}
SPARE = ("#E69F00", "#56B4E9", "#8C6D00", "#B33C86", "#3C7A3C")
MARKERS = {
    "cna": "o",
    "caa": "s",
    "caa-mlp": "D",
    "caa-answer": "p",
    "random": "X",
    "random-kl": "P",
    "no-filter": "^",
    "contribution": "h",
    "delta": "<",
    "tuned": "d",
    "prompt": "*",
    "logit-bias": "v",
}
LABELS = {
    "cna": "CNA circuit",
    "caa": "CAA",
    "caa-mlp": "CAA, MLP outputs",
    "caa-answer": "CAA, from the answer on",
    "random": "random neurons",
    "random-kl": "random neurons of equal KL",
    "no-filter": "CNA, no universal filter",
    "contribution": "circuit by contribution",
    "delta": "circuit by delta",
    "tuned": "tuned circuit",
    "prompt": "instruction",
    "logit-bias": "logit bias",
}
INK, FAINT, BAND = "#222222", "#6B6B6B", "#BDBDBD"
SIGN = LinearSegmentedColormap.from_list(
    "sign", ["#0B4F8A", "#1F8FB4", "#C9C9C9", "#E08A3C", "#B34700"]
)


def label_of(method: str) -> str:
    """The name of a method in legends and on pages."""
    return LABELS.get(method, method)


def colour_of(method: str) -> str:
    """The colour of a method; of an unknown one, always the same spare colour."""
    if method in COLOURS:
        return COLOURS[method]
    return SPARE[sum(map(ord, method)) % len(SPARE)]


def spare_colour(i: int) -> str:
    """The colour of the i-th of several circuits."""
    colours = (COLOURS["cna"], COLOURS["caa"], COLOURS["no-filter"], COLOURS["caa-mlp"])
    return (*colours, *SPARE)[i % (len(colours) + len(SPARE))]


class _Static(Figure):
    """A figure that shows itself in a notebook without pyplot."""

    def _repr_png_(self) -> bytes:
        return image(self, "png", 110)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure [inches], without pyplot."""
    fig = _Static(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def one_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure [inches] with one set of axes."""
    fig = new_figure(width, height)
    return fig, fig.subplots()


def dress(ax: Axes, title: str, grid: str) -> None:
    """Title, fonts, spines and grid of finished axes."""
    ax.set_title(title, fontsize=10.5, color=INK, loc="left", pad=8)
    ax.set_facecolor("white")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9A9A9A")
    ax.tick_params(labelsize=9, colors=INK, color="#9A9A9A")
    ax.xaxis.label.set(fontsize=9.5, color=INK)
    ax.yaxis.label.set(fontsize=9.5, color=INK)
    ax.grid(True, axis=grid, color="#E3E3E3", linewidth=0.7)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def legend(ax: Axes, below: bool = False) -> None:
    """A legend of what has a label, inside the axes or below them."""
    handles, labels = ax.get_legend_handles_labels()
    if not labels:
        return
    if not below:
        ax.legend(fontsize=9, frameon=False, labelcolor=INK)
        return
    spec, figure = ax.get_subplotspec(), ax.get_figure()
    assert figure is not None
    room = figure.bbox.width / figure.dpi / (spec.get_gridspec().ncols if spec else 1)  # inches
    entry = 0.5 + 0.072 * max(map(len, labels))  # marker and text of 9 points
    columns = max(1, min(2 if len(labels) <= 6 else 3, int(room / entry)))
    ax.legend(
        handles,
        labels,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        ncols=min(columns, len(labels)),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.17),
        borderaxespad=0.0,
    )


def layer_ticks(layers: int) -> list[int]:
    """About ten layers, the first and the last among them."""
    step = next(s for s in (1, 2, 3, 5, 10, 20, 50, 100, 1000) if layers / s <= 12 or s == 1000)
    last = layers - 1
    return [t for t in range(0, layers, step) if last - t > step / 2] + [last]


def layer_axis(ax: Axes, layers: int, share: bool = False) -> None:
    """The axes of bars that count neurons, or their share, with a place per layer."""
    ax.set_xlim(-0.7, layers - 0.3)
    ax.set_xticks(layer_ticks(layers))
    if not share:
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.set_xlabel("layer")
    ax.set_ylabel("neurons of the circuit [%]" if share else "neurons")


def image(fig: Figure, kind: str, dpi: int) -> bytes:
    """A figure as the bytes of a png, svg or pdf without dates, so that runs compare."""
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}}.get(
        kind, {"CreationDate": None}
    )
    fig.savefig(buffer, format=kind, dpi=dpi, metadata=metadata, facecolor="white")
    return buffer.getvalue()
