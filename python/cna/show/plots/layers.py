"""Layers by |delta| beside layers by contribution: neurons of circuits of one size, and the sums."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...base.later import pd
from ...circuits.layer_table import RANKINGS, SUMS, known, late_shares, require_layers
from .style import COLOURS, dress, layer_axis, legend, new_figure

_LOOKS: dict[str, dict[str, str]] = {  # by the ranking; the hatch repeats the colour in grey
    "delta": {"color": COLOURS["cna"]},
    "converted": {"color": COLOURS["no-filter"], "hatch": "...."},
    "contribution": {"color": COLOURS["caa"], "hatch": "////"},
}
_LOG = {"color": "#222222", "marker": "D", "markersize": 4, "linestyle": "none", "zorder": 3}
_HATCHED = 40  # in the bars of deeper models hatches hide the colour


def layers_by_ranking(table: pd.DataFrame) -> Figure:
    """Neurons per layer by each ranking, above the share of |delta| and of contributions in a layer.

    Args:
        table: `cna.analysis.layers_by_ranking(...).table`, a row per layer. Without contributions,
            |delta| alone is drawn. A column log_count, of a reproduction, is drawn as points.
    Raises:
        ValueError: a table without these columns or without rows.
    """
    require_layers(table, "layers_by_ranking")
    layers, late = len(table), late_shares(table).iloc[0]
    fig = new_figure(min(10.0, max(7.0, 0.2 * layers + 2.6)), 6.4)
    above, below = fig.subplots(2, 1)
    end = f"in the last {late['layers']}"
    counted = {
        c: f"{RANKINGS[c]}: {table[c].sum():.0f}, {100 * np.nan_to_num(late[c]):.0f} % {end}"
        for c in known(table, RANKINGS)
    }
    _bars(above, table[list(counted)].astype("float64"), counted)
    if "log_count" in table and table["log_count"].notna().any():
        logged = table["log_count"].astype("float64")
        above.plot(logged, label=f"authors' log: {logged.sum():.0f}", **_LOG)  # type: ignore[arg-type]
    sums = table[known(table, SUMS)].astype("float64")
    _bars(below, 100 * sums / sums.sum().replace(0.0, 1.0), SUMS)
    layer_axis(above, layers)
    layer_axis(below, layers, share=True)
    below.set_ylabel("share of the sum [%]")
    dress(above, "Neurons per layer", grid="y")
    dress(below, "Share of a layer in the sum over all neurons", grid="y")
    legend(above)
    legend(below)
    return fig


def _bars(ax: Axes, heights: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """Bars side by side in each layer, one for each column."""
    wide = 0.86 / len(heights.columns)
    left = np.arange(len(heights)) - 0.43 + wide / 2
    for i, (column, tall) in enumerate(heights.items()):
        name = str(column)
        look = dict(_LOOKS[name.rpartition("_")[0]])
        if len(heights) > _HATCHED:
            look.pop("hatch", None)
        ax.bar(left + i * wide, tall, wide, label=labels[name], edgecolor="white", lw=0, **look)  # type: ignore[arg-type]
