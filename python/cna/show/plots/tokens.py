"""The figure of a token view: the text, coloured and numbered, and a line of bars for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .style import INK, new_figure

_COLUMNS = 92  # characters of a line of text
_UP, _DOWN = "#D95F02", "#1F8FB4"


def token_figure(
    tokens: Sequence[str],
    total: NDArray[np.float64],
    layers: Mapping[int, NDArray[np.float64]],
    n_prompt: int,
) -> Figure:
    """Tokens of a prompt and its answer by a circuit's contribution.

    Args:
        total: [n_tokens]; layers: [n_tokens] of each.
        n_prompt: how many tokens are the prompt's; the answer's begin on a new line.
    """
    lines = _lines(tokens, n_prompt)
    tall = 0.36 * len(lines) + 0.3
    fig = new_figure(9.0, tall + 0.28 * (1 + len(layers)) + 0.7)
    text, bars = fig.subplots(2, 1, height_ratios=[tall, 0.28 * (1 + len(layers)) + 0.4])
    _draw_text(text, lines, tokens, total)
    _draw_bars(bars, total, layers, n_prompt)
    return fig


def _lines(tokens: Sequence[str], n_prompt: int) -> list[list[int]]:
    """Tokens of each line; one begins behind a line break, and with the answer."""
    lines: list[list[int]] = [[]]
    used = 0
    for i, token in enumerate(tokens):
        wide = len(_shown(token))
        if lines[-1] and (used + wide > _COLUMNS or i == n_prompt):
            lines.append([])
            used = 0
        lines[-1].append(i)
        used += wide
        if "\n" in token:
            lines.append([])
            used = 0
    return [line for line in lines if line]


def _shown(token: str) -> str:
    text = token.replace("\n", "⏎").replace("\t", "⇥")
    return text if text.isprintable() and text else "∅"


def _draw_text(
    ax: Axes, lines: list[list[int]], tokens: Sequence[str], total: NDArray[np.float64]
) -> None:
    scale = max(1.0, float(np.quantile(np.abs(total), 0.98)))
    for row, line in enumerate(lines):
        at = 0
        for i in line:
            text, value = _shown(tokens[i]), float(total[i])
            ax.add_patch(_box(at, row, len(text), _UP if value > 0 else _DOWN, abs(value) / scale))
            # The dollar sign would begin a formula.
            ax.text(at, row, text.replace("$", r"\$"), family="monospace", fontsize=9.6, color=INK,
                    va="center", ha="left")  # fmt: skip
            if abs(value) >= (0.05 if len(text) > 2 else 0.5):  # no room below short ones
                number = f"{value:+.1f}".replace("-", "−")
                ax.text(at + len(text) / 2, row + 0.38, number, fontsize=5, color=INK, va="center",
                        ha="center")  # fmt: skip
            at += len(text)
    ax.set_xlim(-0.5, _COLUMNS + 4)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.axis("off")


def _box(at: float, row: float, wide: float, colour: str, share: float) -> Rectangle:
    return Rectangle(
        (at, row - 0.28), wide, 0.56, facecolor=colour, alpha=0.6 * min(1.0, share), linewidth=0
    )


def _draw_bars(
    ax: Axes,
    total: NDArray[np.float64],
    layers: Mapping[int, NDArray[np.float64]],
    n_prompt: int,
) -> None:
    rows = [("all", total), *((f"layer {layer}", values) for layer, values in layers.items())]
    for row, (_, values) in enumerate(rows):
        most = float(np.abs(values).max(initial=0.0)) or 1.0
        heights = -0.45 * values / most  # the axis points down
        colours = [_UP if value > 0 else _DOWN for value in values]
        ax.bar(np.arange(len(values)), heights, bottom=row, color=colours, width=0.8)
        ax.axhline(row, color="#9A9A9A", linewidth=0.5)
        ax.text(len(values) + 0.3, row, f"±{most:.2g}", fontsize=7, color=INK, va="center")
    if n_prompt < len(total):
        ax.axvline(n_prompt - 0.5, color="#9A9A9A", linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8, color=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(-0.7, len(total) + 3)
    ax.set_xlabel("token; dashed: the answer begins", fontsize=8.5, color=INK)
    ax.tick_params(axis="x", labelsize=8, colors=INK)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
