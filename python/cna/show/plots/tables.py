"""A sweep's table made ready to draw: checked rows, one line per method and layer, label texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from ...base.later import pd
from ...measure.kinds import KINDS, is_unsteered, with_kinds
from .style import MARKERS, colour_of, label_of

_TEXT = ["method", "layer", "kind"]


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
    """One line per method and layer but random draws; layers share their method's colour, paler."""
    for method, rows in table[table["kind"] != "random"].groupby("method", sort=False):
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


def bands_of(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The draws of random neurons, all draws of one method together: (label, rows)."""
    for method, rows in table[table["kind"] == "random"].groupby("method", sort=False):
        draws = rows["draw"].nunique() if "draw" in rows else 1
        text = label_of(str(method))
        yield (f"{text}, {draws} draws" if draws > 1 else text), rows


def checked(table: pd.DataFrame, columns: Sequence[str], caller: str) -> pd.DataFrame:
    """The rows that have a method, a strength and all of `columns`, numbers as floats, with kinds."""
    needed = ("method", "strength", *columns)
    missing = [c for c in needed if c not in table.columns]
    if missing:
        raise ValueError(
            f"{caller}: expected the columns {', '.join(needed)}, got none named "
            f"{', '.join(missing)}; pass the table of a sweep"
        )
    out = with_kinds(table)
    for column in out.columns.difference(_TEXT):
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


def with_effect(table: pd.DataFrame, caller: str) -> pd.DataFrame:
    """Adds `effect` in percentage points, and what it is in the table's attrs `effect`.

    The rise of other answers, so that broken text is no success; the fall of the rate where the
    table does not tell them apart.
    """
    plain = table[is_unsteered(table)]
    if plain.empty:
        raise ValueError(
            f"{caller}: expected an unsteered row (multiplier 1 or coefficient 0), got none; add "
            "it to the sweep"
        )
    if "other" in table and table["other"].notna().any():
        base = float(plain["other"].iloc[0])
        out = table.assign(effect=100 * (table["other"] - base))
        out.attrs["effect"] = f"rise of other, unbroken answers from {100 * base:.0f} % [points]"
    else:
        base = float(plain["rate"].iloc[0])
        out = table.assign(effect=100 * (base - table["rate"]))
        out.attrs["effect"] = f"fall of the behaviour rate from {100 * base:.0f} % [points]"
    return out


def side_effect(table: pd.DataFrame, caller: str) -> tuple[str, str]:
    """The column that methods are compared along, and its label: KL on benign prompts if measured."""
    for column, text in (
        ("kl_benign", "KL(unsteered || steered) on benign prompts [nats per token]"),
        ("kl_evaluation", "KL(unsteered || steered) on evaluation prompts [nats per token]"),
    ):
        if column in table and pd.to_numeric(table[column], errors="coerce").notna().any():
            return column, text
    raise ValueError(
        f"{caller}: expected the columns rate and kl_benign, got none named kl_benign; measure the "
        "KL in the sweep"
    )


def interval(
    rows: pd.DataFrame, low: str, high: str, y: npt.NDArray[Any], scale: float = 100.0
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The two ends of an interval [n] each, or `y` twice where the table has none."""
    if low not in rows or high not in rows:
        return y, y
    return tuple(scale * rows[c].to_numpy(dtype=np.float64) for c in (low, high))  # type: ignore[return-value]


def setting_text(row: pd.Series) -> str:
    """A setting as a short label: m = 0, or c = −1, layer 12."""
    symbol = KINDS[row["kind"]].symbol
    if not symbol:
        return str(row["method"])
    strength = f"{row['strength']:g}".replace("-", "−")
    layer = row.get("layer")
    return f"{symbol} = {strength}" + (
        "" if layer is None or pd.isna(layer) else f", layer {layer:.0f}"
    )


def strength_texts(table: pd.DataFrame, x: str, y: str) -> list[tuple[float, float, str, str]]:
    """Labels of steered points; of methods with layers, only those that no other setting beats."""
    out = []
    steered = table[~is_unsteered(table) & (table["kind"] != "random")]
    for method, rows in steered.groupby("method", sort=False):
        added = KINDS[rows["kind"].iloc[0]].neutral == 0.0
        across, up = (rows[c].to_numpy(dtype=np.float64) for c in (x, y))
        for i in range(len(rows)):
            beaten = (across >= across[i]) & (up >= up[i])
            beaten &= (across > across[i]) | (up > up[i])
            if not (added and (beaten.any() or across[i] <= 0)):
                text = setting_text(rows.iloc[i])
                out.append((float(across[i]), float(up[i]), text, colour_of(str(method))))
    return out
