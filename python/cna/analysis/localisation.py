"""Where a circuit sits in the model, and how two circuits overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._core import Circuit, compare
from ..base.html import frame_html, panel
from ..base.later import pd


def layer_table(circuit: Circuit) -> pd.DataFrame:
    """Neurons per layer: one row per layer with `layer`, `count` and `share` (of the circuit, 0-1).

    The shares of an empty circuit are 0.
    """
    counts = np.asarray(circuit.layer_counts, dtype=np.int64)
    return pd.DataFrame(
        {
            "layer": np.arange(len(counts)),
            "count": counts,
            "share": counts / max(int(counts.sum()), 1),
        }
    )


@dataclass(frozen=True)
class Concentration:
    """How much of a circuit sits late in the model.

    Attributes:
        n_neurons: in the circuit.
        n_layers: of the model.
        last_three: share of the neurons in the final 3 layers, 0 to 1.
        last_quarter: share in the final `quarter_layers` layers, 0 to 1.
        quarter_layers: n_layers // 4, at least 1.

    With neurons spread evenly the shares would be 3 / n_layers and quarter_layers / n_layers.
    Source: arXiv 2605.12290, table 6.
    """

    n_neurons: int
    n_layers: int
    last_three: float
    last_quarter: float
    quarter_layers: int

    @property
    def table(self) -> pd.DataFrame:
        """Columns `part`, `layers`, `share`, `even_share`."""
        three = min(3, self.n_layers)
        return pd.DataFrame(
            {
                "part": ["last three layers", "last quarter"],
                "layers": [three, self.quarter_layers],
                "share": [self.last_three, self.last_quarter],
                "even_share": [three / self.n_layers, self.quarter_layers / self.n_layers],
            }
        )

    def _repr_html_(self) -> str:
        return panel([frame_html(self.table, caption=f"{self.n_neurons:,} neurons")])


def concentration(circuit: Circuit) -> Concentration:
    """Share of the circuit in the last three layers and in the last quarter (final L // 4 layers).

    Both are 0 for an empty circuit; a model with fewer than 4 layers has a quarter of one layer.
    """
    layers = int(circuit.shape[0])
    quarter = max(1, layers // 4)
    return Concentration(
        n_neurons=len(circuit),
        n_layers=layers,
        last_three=float(circuit.share_in_last_layers(3)),
        last_quarter=float(circuit.share_in_last_layers(quarter)),
        quarter_layers=quarter,
    )


@dataclass(frozen=True)
class CircuitComparison:
    """How two circuits of one grid overlap.

    Attributes:
        left, right, shared: neurons in each and in both.
        share_of_left, share_of_right: shared over the size of that circuit, 0 to 1.
        jaccard: shared over either, 0 to 1.
        expected: shared neurons that two random circuits of these sizes would have on average.
        same_sign: shared neurons whose deltas have one sign.
        p_value: hypergeometric P[at least this many shared] for random circuits of these sizes.
        log10_p_value: the same where it underflows.

    The p-value takes all neurons of the grid as equally likely; late layers are not, so it says
    "not by chance over the whole grid", not "the same mechanism".
    """

    left: int
    right: int
    shared: int
    share_of_left: float
    share_of_right: float
    jaccard: float
    expected: float
    same_sign: int
    p_value: float
    log10_p_value: float

    @property
    def table(self) -> pd.DataFrame:
        """One row, a column per attribute."""
        return pd.DataFrame([{f: getattr(self, f) for f in self.__dataclass_fields__}])

    def _repr_html_(self) -> str:
        caption = f"{self.shared:,} of {self.left:,} and {self.right:,} neurons shared"
        other = "log10_p_value" if self.p_value > 0 else "p_value"
        table = self.table.drop(columns=["left", "right", other])
        return panel([frame_html(table, caption=caption)])


def compare_circuits(a: Circuit, b: Circuit) -> CircuitComparison:
    """Overlap of two circuits as (layer, index) pairs, with what chance would give.

    Raises ValueError where the circuits are of grids of different shape.
    """
    overlap = compare(a, b)
    signs = {(n.layer, n.index): n.delta > 0 for n in a.neurons}
    agree = sum(
        signs[(n.layer, n.index)] == (n.delta > 0) for n in b.neurons if (n.layer, n.index) in signs
    )
    return CircuitComparison(
        left=overlap.left,
        right=overlap.right,
        shared=overlap.shared,
        share_of_left=overlap.shared / overlap.left if overlap.left else 0.0,
        share_of_right=overlap.shared / overlap.right if overlap.right else 0.0,
        jaccard=overlap.jaccard,
        expected=overlap.left * overlap.right / sum(a.widths),
        same_sign=int(agree),
        p_value=overlap.p_value,
        log10_p_value=overlap.log10_p_value,
    )
