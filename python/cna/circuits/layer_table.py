"""Neurons per layer by each ranking as a table, and what it says of the last layers.

A row per layer: how many neurons of each circuit lie there, and how much of each score.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..base.later import pd

RANKINGS = {  # column of the counts -> what the neurons were ranked by
    "delta_count": "by |delta|",
    "converted_count": "by |delta| in the answer's units",
    "contribution_count": "by contribution",
}
SUMS = {  # column of the sums -> what was summed
    "delta_sum": "|delta|",
    "converted_sum": "|delta| in the answer's units",
    "contribution_sum": "positive contributions",
}
LAYER_COLUMNS = ("layer", *RANKINGS, *SUMS)

UNITS_NOTE = (
    "|delta| is in the units of each layer's activations, and these differ from layer to layer, so that "
    "neurons lie late by |delta| is partly a matter of units. In the answer's units the same delta is "
    "multiplied by how far the neuron writes along the answer's direction in the residual stream. A "
    "contribution is in these units too but asks something else: what zeroing takes from the positive "
    "prompts' answers, less what the neuron writes on the negative ones. What later layers make of a "
    "write is in none of them."
)


def require_layers(table: pd.DataFrame, function: str) -> None:
    """Raises ValueError for a table without rows, or without a column of `LAYER_COLUMNS`."""
    missing = [c for c in LAYER_COLUMNS if c not in table]
    if missing or not len(table):
        got = f"one without {', '.join(missing)}" if missing else "no rows"
        raise ValueError(
            f"{function}: expected a table with the columns {', '.join(LAYER_COLUMNS)}, got {got}; "
            "pass cna.analysis.layers_by_ranking(...).table"
        )


def has_contributions(table: pd.DataFrame) -> bool:
    """Whether the model that a table is of knew its weights."""
    return bool(table[["converted_count", "contribution_count"]].notna().all(axis=None))


def known(table: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """Those of `columns` that the table has numbers for."""
    whole = has_contributions(table)
    return [c for c in columns if whole or c.startswith("delta")]


def late_shares(table: pd.DataFrame) -> pd.DataFrame:
    """How much lies in the last three layers and in the last quarter, 0 to 1.

    Args:
        table: columns `LAYER_COLUMNS`, a row per layer from the first.
    Returns:
        Columns `part`, `layers`, `even` (the share of the layers), and those of `RANKINGS` and `SUMS`
        as shares of their whole; NaN where nothing is to share out.
    Raises:
        ValueError: a table without these columns or without rows.
    """
    require_layers(table, "late_shares")
    layers = len(table)
    parts = {"last three layers": min(3, layers), "last quarter": max(1, layers // 4)}
    rows = []
    for part, last in parts.items():
        shares = {c: _share(table[c], last) for c in LAYER_COLUMNS[1:]}
        rows.append({"part": part, "layers": last, "even": last / layers, **shares})
    return pd.DataFrame(rows)


def layers_sentence(table: pd.DataFrame) -> str:
    """The neurons in the last three layers by each ranking, in one sentence."""
    layers = len(table)
    last = min(3, layers)
    found = []
    for column in known(table, RANKINGS):
        late, n = int(table[column].tail(last).sum()), int(table[column].sum())
        found.append(f"{late} of {n} neurons {RANKINGS[column]} ({100 * late / max(n, 1):.0f} %)")
    listed = " and ".join(x for x in (", ".join(found[:-1]), found[-1]) if x)
    return (
        f"In the last {last} of {layers} layers lie {listed}; evenly spread it would be "
        f"{100 * last / layers:.0f} %."
    )


def _share(values: pd.Series, last: int) -> float:
    whole = float(values.sum())
    if values.isna().any() or not whole:
        return float("nan")
    return float(values.tail(last).sum()) / whole
