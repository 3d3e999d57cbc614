"""Layers by |delta| beside layers by contribution: a sentence, strips of bars, the shares."""

from __future__ import annotations

from markupsafe import Markup

from ...base.html import folded, number, page_table, render
from ...base.later import pd
from ...circuits.layer_table import (
    RANKINGS,
    SUMS,
    UNITS_NOTE,
    known,
    late_shares,
    layers_sentence,
)
from ..display import layer_bars

_NAMES = {
    **{column: f"neurons {name}" for column, name in RANKINGS.items()},
    **{column: f"sum of {name}" for column, name in SUMS.items()},
}


def layers_html(layers: pd.DataFrame | None, missing: str = "") -> Markup:
    """The section; `missing` says why a run has no contributions."""
    if layers is None:
        return render("show/layers_missing", missing=missing) if missing else Markup()
    shown = known(layers, _NAMES)
    late = late_shares(layers)
    shares = [
        [row["part"], *(number(100 * row[c]) for c in ("even", *shown))]
        for row in late.to_dict("records")
    ]
    rows = [
        [number(row["layer"]), *(number(row[c]) for c in shown)]
        for row in layers.to_dict("records")
    ]
    header = [_NAMES[c] for c in shown]
    return render(
        "show/layers",
        sentence=layers_sentence(layers),
        strips=[
            layer_bars([int(x) for x in layers[c]], _NAMES[c].capitalize())
            for c in known(layers, RANKINGS)
        ],
        shares=page_table(["per cent in the", "layers", *header], shares),
        every=folded("Every layer", page_table(["layer", *header], rows)),
        note=UNITS_NOTE,
        missing=missing,
    )
