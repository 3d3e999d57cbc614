"""Methods against each other: chosen on one half and shown on the other, controls, paired tests."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from ...base.html import number, page_table, render
from ...base.later import pd
from ...measure.paired import compare, controls
from ..plots.style import label_of
from .settings import MAX_KL, setting_name, setting_of

_CHOSEN = {
    "rate": "behaviour",
    "other": "other",
    "broken": "broken",
    "kl_benign": "KL, benign",
    "n": "prompts",
}
_CONTROLS = {
    "draws": "draws",
    "rate": "circuit",
    "lowest": "lowest draw",
    "median": "median draw",
    "highest": "highest draw",
    "circuit_kl": "KL, circuit",
    "kl_benign": "KL, draws",
    "p_empirical": "p",
}
_PAIRED = {
    "n": "prompts",
    "gained": "gained",
    "lost": "lost",
    "difference": "difference",
    "p_value": "p",
    "p_holm": "p, Holm",
}


def comparisons_html(
    table: pd.DataFrame | None, answers: pd.DataFrame | None, halves: pd.DataFrame | None
) -> Markup:
    """The three tables, those that the run has the answers for."""
    if table is None or answers is None or "outcome" not in answers or "index" not in answers:
        return Markup()
    blocks = []
    if halves is not None:
        names = [setting_name(setting_of(row)) for _, row in halves.iterrows()]
        note = (
            f"Each method's setting with the most other, unbroken answers up to a KL of {MAX_KL:g} on "
            "benign prompts, chosen on the prompts of even number; the numbers are those of the odd."
        )
        blocks.append((note, _table(names, halves, _CHOSEN)))
    draws = controls(table, answers)
    if len(draws):
        note = (
            "The circuit against draws of random neurons. p: (1 + draws with as low a rate or lower) "
            "/ (1 + draws)."
        )
        blocks.append((note, _table([label_of(x) for x in draws["control"]], draws, _CONTROLS)))
    try:
        tests = compare(answers)
    except ValueError:  # no unsteered answers
        tests = pd.DataFrame()
    if len(tests):
        kinds = answers.drop_duplicates("method").set_index("method")["kind"]
        tests = tests.assign(kind=tests["method"].map(kinds))
        names = [setting_name(setting_of(row)) for _, row in tests.iterrows()]
        note = (
            "The behaviour in the same prompts' answers, against the unsteered model: exact McNemar "
            "tests, corrected for all rows of this table (Holm)."
        )
        blocks.append((note, _table(names, tests, _PAIRED)))
    return render("show/comparisons", blocks=blocks) if blocks else Markup()


def _table(names: list[str], frame: pd.DataFrame, columns: Mapping[str, str]) -> Markup:
    rows = [
        [name, *(number(row[c], 2) for c in columns)]
        for name, (_, row) in zip(names, frame.iterrows(), strict=True)
    ]
    return page_table(["setting", *columns.values()], rows)
