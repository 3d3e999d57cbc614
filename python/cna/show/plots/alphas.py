"""Accuracy against the paper's strength alpha, which neurons and vectors share."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...base.later import pd
from .style import FAINT, MARKERS, colour_of, dress, label_of, legend, one_axes
from .tables import interval


def accuracy_by_alpha(table: pd.DataFrame) -> Figure:
    """Share of right answers at each alpha, a line per method and layer, with Wilson intervals.

    Args:
        table: with the columns method, alpha, accuracy and, where known, layer, accuracy_low and
            accuracy_high; alpha is 1 - m for neurons and the coefficient for vectors.
    Raises:
        ValueError: a table without these columns or without rows.
    """
    needed = ("method", "alpha", "accuracy")
    if table.empty or not {*needed} <= {*table.columns}:
        raise ValueError(
            f"accuracy_by_alpha: expected rows with the columns {', '.join(needed)}, got {len(table)} "
            f"rows with {', '.join(map(str, table.columns))}; pass a reproduction's table 'mmlu'"
        )
    fig, ax = one_axes(7.2, 4.2)
    by = ["method"] + (["layer"] if "layer" in table else [])
    for which, rows in table.groupby(by, dropna=False, sort=False):
        method, layer = (*which, None)[:2]
        rows = rows.sort_values("alpha")
        x, y = (rows[c].to_numpy(dtype=np.float64) for c in ("alpha", "accuracy"))
        low, high = interval(rows, "accuracy_low", "accuracy_high", 100 * y)
        label = label_of(str(method)) + ("" if pd.isna(layer) else f", layer {layer}")
        look: dict[str, Any] = {
            "color": colour_of(str(method)),
            "marker": MARKERS.get(str(method), "o"),
        }
        ax.vlines(x, low, high, color=look["color"], alpha=0.35, linewidth=1.4, zorder=2)
        ax.plot(x, 100 * y, label=label, linewidth=1.6, markersize=5, **look)
    ax.axhline(25, color=FAINT, linewidth=1, linestyle=":", zorder=1)
    end: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    ax.annotate("chance", (0.995, 25), fontsize=8, color=FAINT, **end)
    ax.set_xlabel("alpha: 1 − m for neurons, the coefficient for vectors")
    ax.set_ylabel("right answers [%]")
    dress(ax, "Multiple-choice questions", grid="y")
    legend(ax, below=True)
    return fig
