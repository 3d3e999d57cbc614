"""A sweep's table made ready to draw: checked rows, one line per method and layer, label texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import to_rgb

from .style import MARKERS, colour_of, label_of


class Line:
    """The rows of one method at one layer, by strength, and how to draw them."""

    def __init__(self, method: str, layer: int | None, rows: pd.DataFrame, place: float) -> None:
        self.rows = rows.sort_values("strength")
        self.label = label_of(method) + ("" if layer is None else f", layer {layer}")
        base = np.asarray(to_rgb(colour_of(method)))
        # Layers of one method: from the plain colour towards white.
        self.colour: Any = tuple(base + (1 - base) * 0.62 * place)
        self.look: dict[str, Any] = {
            "color": self.colour,
            "marker": MARKERS.get(method, "o"),
            "linewidth": 1.8,
            "markersize": 5.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "zorder": 3,
        }


def lines_of(table: pd.DataFrame) -> Iterator[Line]:
    """One line per method and layer; layers share their method's colour, ever paler."""
    for method, rows in table.groupby("method", sort=False):
        layers = rows["layer"].astype("Float64") if "layer" in rows else None
        if layers is None or not layers.notna().any():
            yield Line(str(method), None, rows, 0.0)
            continue
        found = sorted(int(x) for x in layers.dropna().unique())
        for i, layer in enumerate(found):
            place = i / (len(found) - 1) if len(found) > 1 else 0.0
            line = Line(str(method), layer, rows[(layers == layer).fillna(False)], place)
            if len(found) > 6 and 0 < i < len(found) - 1:
                line.label = "_"  # shades between the first and the last layer explain themselves
            yield line
        rest = rows[layers.isna()]
        if len(rest):
            yield Line(str(method), None, rest, 0.0)


def checked(table: pd.DataFrame, columns: Sequence[str], caller: str) -> pd.DataFrame:
    """The rows that have a method, a strength and all of `columns`, numbers as floats."""
    needed = ("method", "strength", *columns)
    missing = [c for c in needed if c not in table.columns]
    if missing:
        raise ValueError(
            f"{caller}: expected the columns {', '.join(needed)}, got none named "
            f"{', '.join(missing)}; pass the table of a sweep"
        )
    out = table.copy()
    for column in out.columns.difference(["method", "layer"]):
        out[column] = pd.to_numeric(out[column], errors="coerce").astype(np.float64)
    if "layer" in out:
        out["layer"] = pd.to_numeric(out["layer"], errors="coerce")
    out = out.replace([np.inf, -np.inf], np.nan).dropna(subset=list(needed))
    if out.empty:
        raise ValueError(
            f"{caller}: expected rows with {', '.join(needed)}, got none; run the sweep again"
        )
    out["method"] = out["method"].astype(str)
    return out.reset_index(drop=True)


def with_reduction(table: pd.DataFrame, caller: str) -> pd.DataFrame:
    """Adds `reduction`, the fall of the rate from the unsteered one in percentage points."""
    plain = table[is_unsteered(table)]
    if plain.empty:
        raise ValueError(
            f"{caller}: expected an unsteered row (multiplier 1 or coefficient 0), got none; add "
            "it to the sweep"
        )
    base = float(plain["rate"].iloc[0])
    out = table.assign(reduction=100 * (base - table["rate"]))
    out.attrs["baseline"] = base
    return out


def interval(
    rows: pd.DataFrame, low: str, high: str, y: npt.NDArray[Any], scale: float = 100.0
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The two ends of an interval [n] each, or `y` twice where the table has none."""
    if low not in rows or high not in rows:
        return y, y
    return tuple(scale * rows[c].to_numpy(dtype=np.float64) for c in (low, high))  # type: ignore[return-value]


def is_added(method: str) -> bool:
    """True for methods that add a vector, whose strength is a coefficient."""
    return str(method).startswith("caa")


def is_unsteered(table: pd.DataFrame) -> pd.Series:
    """True for rows of the model itself: multiplier 1, or coefficient 0 of an added vector."""
    neutral = table["method"].map(is_added).map({True: 0.0, False: 1.0})
    return (table["strength"] == neutral) | (table["method"] == "unsteered")


def setting_text(row: pd.Series) -> str:
    """A setting as a short label: m = 0, or c = −1, layer 12."""
    strength = f"{row['strength']:g}".replace("-", "−")
    if not is_added(row["method"]):
        return f"m = {strength}"
    layer = row.get("layer")
    return f"c = {strength}" + ("" if layer is None or pd.isna(layer) else f", layer {layer:.0f}")


def strength_texts(table: pd.DataFrame) -> list[tuple[float, float, str, str]]:
    """Labels of steered points; of added vectors, only those that no other setting beats."""
    out = []
    for method, rows in table.groupby("method", sort=False):
        added = is_added(method)
        rows = rows[rows["strength"] != (0.0 if added else 1.0)]
        x, y = (rows[c].to_numpy(dtype=np.float64) for c in ("reduction", "quality"))
        for i in range(len(rows) if method != "random" else 0):
            beaten = (x >= x[i]) & (y >= y[i]) & ((x > x[i]) | (y > y[i]))
            if not (added and (beaten.any() or x[i] <= 0)):
                out.append(
                    (float(x[i]), float(y[i]), setting_text(rows.iloc[i]), colour_of(str(method)))
                )
    return out
