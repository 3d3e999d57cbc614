"""The figure of a search: how much of the behaviour is left, against the side effect."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from ...base.later import pd
from .style import BAND, COLOURS, FAINT, dress, legend, one_axes


def search_figure(
    table: pd.DataFrame, front: pd.DataFrame, chosen: dict[str, Any], max_kl: float
) -> Figure:
    """Every candidate, the front of the circuits, CAA, the instruction and the choice.

    Args:
        table: `kind`, `left` and `kl` of each candidate; front: the circuits that none beats.
        chosen: the row of the choice; max_kl: the bound, a dotted line [nats per token].
    """
    fig, ax = one_axes(6.4, 4.2)
    circuits, caa = table[table["kind"] == "circuit"], table[table["kind"] == "caa"]
    most = max(4 * max_kl, 1.1 * float(chosen["kl"]))
    ax.axvline(max_kl, color=FAINT, linewidth=1, linestyle=":", label="bound")
    ax.plot(circuits["kl"], 100 * circuits["left"], ".", color=BAND, label="circuits tried")
    ax.plot(caa["kl"], 100 * caa["left"], "s", color=COLOURS["caa"], markersize=4, label="CAA")
    asked = table[table["kind"] == "prompt"]
    ax.plot(asked["kl"], 100 * asked["left"], "*", color="#000000", label="instruction")
    ax.plot(front["kl"], 100 * front["left"], "o-", color=COLOURS["cna"], label="front of circuits")
    look: dict[str, Any] = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.6}
    ax.plot([chosen["kl"]], [100 * chosen["left"]], "o", color="#000000", label="chosen", **look)
    ax.set_xlim(-0.02 * most, most)
    ax.set_ylim(-3, 103)
    ax.set_xlabel("KL on prompts without the behaviour [nats per token]")
    ax.set_ylabel("behaviour, broken or astray [%]")
    dress(ax, "Tuned on the choice half", grid="both")
    legend(ax)
    return fig
