"""Settings of a sweep: which rows are one setting, which settings to show, how to call them."""

from __future__ import annotations

import pandas as pd

from ...base.html import number
from ..plots.style import label_of
from ..plots.tables import is_added, is_unsteered

Setting = tuple[str, "float | None", float]  # method, layer or None, strength


def chosen_settings(table: pd.DataFrame | None) -> dict[str, Setting]:
    """Settings to show in words: CNA ablated, and the best CAA that keeps its text."""
    if table is None:
        return {}
    out: dict[str, Setting] = {}
    cna = table[table["method"] == "cna"].dropna(subset=["strength", "rate"])
    if len(cna):
        zero = cna[cna["strength"] == 0]
        row = (zero if len(zero) else cna.sort_values("strength")).iloc[0]
        out["cna"] = setting_of(row)
    caa = table[table["method"].str.startswith("caa")].dropna(subset=["strength", "rate"])
    caa = caa[caa["strength"] != 0]
    if len(caa):
        whole = caa
        base = unsteered_row(table)
        if "quality" in caa and base is not None:
            floor = 0.95 * float(base.get("quality", 0.0))
            whole = caa[caa["quality"] >= floor]
        if len(whole):
            out["caa"] = setting_of(whole.sort_values("rate", kind="stable").iloc[0])
    return out


def setting_of(row: pd.Series) -> Setting:
    """The setting that a row belongs to."""
    layer = row.get("layer")
    return (
        str(row["method"]),
        None if layer is None or pd.isna(layer) else float(layer),
        float(row["strength"]),
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
    method, layer, strength = setting
    same = (frame["method"] == method) & (frame["strength"] == strength)
    if "layer" in frame:
        same &= frame["layer"].isna() if layer is None else frame["layer"] == layer
    return same


def setting_name(setting: Setting) -> str:
    """A setting in words."""
    method, layer, strength = setting
    if method == "unsteered":
        return "unsteered"
    place = "" if layer is None else f", layer {layer:.0f}"
    unit = "coefficient" if is_added(method) else "multiplier"
    return f"{label_of(method)}{place}, {unit} {number(strength)}"
