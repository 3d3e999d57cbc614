"""What a run does not show, in words."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from ..._core import Circuit
from ...base.html import render
from ..plots.tables import is_added


def limits_html(
    table: pd.DataFrame | None, circuit: Circuit | None, answers: pd.DataFrame | None
) -> Markup:
    """The limits that hold for every run, and those of what this run left out."""
    if table is None and circuit is None and answers is None:
        return Markup()
    lines = [
        "One model, one set of prompts and one way of decoding: other models, wordings or sampling "
        "may behave otherwise.",
        "The rate comes from an automatic judge, not from people: it can miss the behaviour in "
        "unusual words and see it where it is not. An answer without the behaviour need not be "
        "right.",
        "Quality counts repeated word 4-grams only. A fluent but wrong or off-topic answer scores "
        "high.",
        "The intervals are for each row by itself and cover the choice of evaluation prompts, not "
        "the choice of discovery prompts or of strength.",
        "That scaling these neurons changes the behaviour does not make them its only or its whole "
        "mechanism; other neurons may carry it as well.",
    ]
    if table is not None:
        methods = set(table["method"])
        if not any(str(m).startswith("random") for m in methods):
            lines.append(
                "There is no random-neuron control here, so part of any effect may come from "
                "disturbing this many neurons at all."
            )
        if not any(is_added(m) for m in methods):
            lines.append("There is no CAA baseline here, so this says nothing on which is better.")
        if "kl" not in table or not table["kl"].notna().any():
            lines.append("KL was not measured, so methods are not compared at equal disturbance.")
        if "n" in table:
            n = pd.to_numeric(table["n"], errors="coerce").max()
            if n == n and n < 100:
                lines.append(
                    f"Each rate rests on {n:.0f} answers; small differences are within the noise."
                )
    return render("show/list", lines=lines)
