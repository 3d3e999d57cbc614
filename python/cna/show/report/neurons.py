"""The section on what a circuit's neurons do, from the cards that were saved beside the run."""

from __future__ import annotations

from markupsafe import Markup

from ...base.html import number, page_table, render
from ...base.later import pd

COLUMNS = ("layer", "index", "delta", "strongest", "raises", "lowers")
_NUMBERS = ("delta", "effect_size", "contribution", "ablation_kl", "stability")
_SHOWN = 10


def neurons_html(cards: pd.DataFrame | None) -> Markup:
    """The strongest neurons' cards in short, and the way to all of them."""
    if cards is None:
        return Markup()
    cards = cards.copy()
    for name in cards.columns.intersection(_NUMBERS):
        cards[name] = pd.to_numeric(cards[name], errors="coerce")
    names = [name for name in _NUMBERS if name in cards and cards[name].notna().any()]
    head = [
        "layer",
        "neuron",
        *(name.replace("_", " ") for name in names),
        "strongest in",
        "raises",
    ]
    rows = [
        [
            str(int(row["layer"])),
            str(int(row["index"])),
            *(number(row[name]) for name in names),
            str(row["strongest"]).split(" | ")[0],
            str(row["raises"]),
        ]
        for row in cards.head(_SHOWN).to_dict("records")
    ]
    table = page_table(head, rows, text_columns=(len(head) - 2, len(head) - 1))
    return render("show/neurons", table=table, shown=len(rows), total=len(cards))
