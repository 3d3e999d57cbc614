"""What a run does not show, in words."""

from __future__ import annotations

from markupsafe import Markup

from ..._core import Circuit
from ...base.html import render
from ...base.later import pd
from ...circuits.layer_table import has_contributions
from ...measure.kinds import with_kinds

_DRAWS = 20


def limits_html(
    table: pd.DataFrame | None,
    circuit: Circuit | None,
    answers: pd.DataFrame | None,
    layers: pd.DataFrame | None = None,
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
        "Quality and broken text count repeats only. A fluent but wrong or off-topic answer scores "
        "high; the perplexity and the relevance of the answers see some of these.",
        "The intervals are for each row by itself and cover the choice of evaluation prompts, not "
        "the choice of discovery prompts or of strength.",
        "That scaling these neurons changes the behaviour does not make them its only or its whole "
        "mechanism; other neurons may carry it as well.",
    ]
    if circuit is not None and (layers is None or not has_contributions(layers)):
        lines.append(
            "Where neurons lie was looked at by |delta| alone, whose unit differs from layer to layer; "
            "by contribution they may lie elsewhere."
        )
    if table is not None:
        table = with_kinds(table)
        kinds = set(table["kind"])
        if "random" not in kinds:
            lines.append(
                "There is no random-neuron control here, so part of any effect may come from "
                "disturbing this many neurons at all."
            )
        elif "draw" not in table or table["draw"].nunique() < _DRAWS:
            lines.append(
                f"There are fewer than {_DRAWS} draws of random neurons here, too few to say how far "
                "such draws vary."
            )
        if "vector" not in kinds:
            lines.append("There is no CAA baseline here, so this says nothing on which is better.")
        if "prompt" not in kinds:
            lines.append("Whether an instruction in the prompt would do the same was not tried.")
        if not any(_measured(table, c) for c in ("kl_benign", "kl_evaluation")):
            lines.append("KL was not measured, so methods are not compared at equal disturbance.")
        elif not _measured(table, "kl_benign"):
            lines.append(
                "KL was measured along the answers that steering should change, not on benign "
                "prompts, so it mixes effect and side effect."
            )
        if "n" in table:
            n = pd.to_numeric(table["n"], errors="coerce").max()
            if n == n and n < 100:
                lines.append(
                    f"Each rate rests on {n:.0f} answers; small differences are within the noise."
                )
    return render("show/list", lines=lines)


def _measured(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())
