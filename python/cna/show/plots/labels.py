"""Small labels beside points, off the points, the lines and each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def place_labels(fig: Figure, ax: Axes, texts: Sequence[tuple[float, float, str, str]]) -> None:
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
        tries = [(strokes, gap) for gap in gaps]
        if text.startswith("m"):
            tries += [(points, gap) for gap in gaps[:8]]
        for avoid, (dx, dy) in tries:
            label.set_position((dx, dy))
            label.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")
            box = label.get_window_extent(renderer).padded(2)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            crossed = _inside(box, avoid) or _inside(box.padded(2), points)
            if inside and not crossed and not any(box.overlaps(other) for other in taken):
                taken.append(box)
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
