"""Settings of a sweep: which rows are one setting, which settings to show, how to call them."""

from __future__ import annotations

from typing import NamedTuple

from ...base.html import number
from ...base.later import pd
from ...measure.choice import choose
from ...measure.kinds import KINDS, is_unsteered
from ..plots.style import label_of

MAX_KL = 0.1  # nats per token on benign prompts, up to which a vector is chosen


class Setting(NamedTuple):
    """What the rows of one setting share."""

    method: str
    layer: float | None
    strength: float
    kind: str = "circuit"


def chosen_settings(
    table: pd.DataFrame | None, answers: pd.DataFrame | None = None
) -> dict[str, Setting]:
    """Settings to show in words: CNA ablated, and the best added vector.

    The vector is chosen on half of the prompts, where the answers tell that; in older runs it is the
    one of the lowest rate that keeps its text.
    """
    if table is None:
        return {}
    out: dict[str, Setting] = {}
    cna = table[table["method"] == "cna"].dropna(subset=["strength", "rate"])
    if len(cna):
        zero = cna[cna["strength"] == 0]
        row = (zero if len(zero) else cna.sort_values("strength")).iloc[0]
        out["cna"] = setting_of(row)
    chosen = chosen_rows(answers)
    if chosen is not None and len(vectors := chosen[chosen["kind"] == "vector"]):
        best = vectors.sort_values(["within", "chosen_other"], ascending=False, kind="stable")
        out["vector"] = setting_of(best.iloc[0])
        return out
    vectors = table[table["kind"] == "vector"].dropna(subset=["strength", "rate"])
    vectors = vectors[vectors["strength"] != 0]
    base = unsteered_row(table)
    if "quality" in vectors and base is not None:
        floor = 0.95 * float(base.get("quality", 0.0))
        vectors = vectors[vectors["quality"] >= floor]
    if len(vectors):
        out["vector"] = setting_of(vectors.sort_values("rate", kind="stable").iloc[0])
    return out


def chosen_rows(answers: pd.DataFrame | None) -> pd.DataFrame | None:
    """Each method's best setting, chosen on half of the prompts; None where the run is older."""
    if answers is None or not {"outcome", "answer_kl", "index"} <= set(answers.columns):
        return None
    rows = choose(answers, MAX_KL)
    return rows if len(rows) else None


def setting_of(row: pd.Series) -> Setting:
    """The setting that a row belongs to."""
    layer = row.get("layer")
    return Setting(
        str(row["method"]),
        None if layer is None or pd.isna(layer) else float(layer),
        float(row["strength"]),
        str(row["kind"]),
    )


def unsteered_row(table: pd.DataFrame) -> pd.Series | None:
    """The first row of the model itself."""
    rows = table[is_unsteered(table)].dropna(subset=["rate"])
    return rows.iloc[0] if len(rows) else None


def row_of(table: pd.DataFrame, setting: Setting) -> pd.Series | None:
    """The row of a setting."""
    rows = table[matches(table, setting)]
    return rows.iloc[0] if len(rows) else None


def matches(frame: pd.DataFrame, setting: Setting) -> pd.Series:
    """True for the rows of a setting."""
    same = (frame["method"] == setting.method) & (frame["strength"] == setting.strength)
    if "layer" in frame:
        layer = setting.layer
        same &= frame["layer"].isna() if layer is None else frame["layer"] == layer
    return same


def strength_text(kind: str, strength: float) -> str:
    """A strength with the sign of its kind: m = 0, c = −0.5; "" where there is none to tell."""
    symbol = KINDS[kind].symbol
    return f"{symbol} = {number(strength)}" if symbol else ""


def setting_name(setting: Setting) -> str:
    """A setting in words."""
    if setting.kind == "model" and setting.method == "unsteered":
        return "unsteered"
    place = "" if setting.layer is None else f", layer {setting.layer:.0f}"
    kind = KINDS[setting.kind]
    if not kind.symbol:
        return f"{label_of(setting.method)}{place}"
    return f"{label_of(setting.method)}{place}, {kind.unit} {number(setting.strength)}"
