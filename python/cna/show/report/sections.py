"""Sections of the page: headline rates, the circuit, methods and strengths, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ..._core import Circuit
from ...base.html import folded, number, page_table, render
from ...base.later import pd
from ...measure.kinds import is_unsteered
from ..display import layer_bars, signed
from ..plots.style import label_of
from .settings import Setting, row_of, setting_name, strength_text, unsteered_row


def lead_html(
    table: pd.DataFrame | None,
    chosen: Mapping[str, Setting],
    halves: pd.DataFrame | None = None,
) -> Markup:
    """Tiles with the rates that matter most; `halves`: settings as shown on the prompts held out."""
    if table is None or not chosen:
        return Markup()
    base = unsteered_row(table)
    items = [] if base is None else [_tile("Unsteered", base)]
    for name, setting in chosen.items():
        held_out = halves is not None and name == "vector"
        row = row_of(halves if held_out and halves is not None else table, setting)
        if row is not None:
            items.append(_tile(setting_name(setting), row))
    picked = ("half" if halves is not None else "same") if "vector" in chosen else ""
    return render("show/tiles", tiles=items, picked=picked)


def _tile(name: str, row: pd.Series) -> dict[str, str]:
    low, high = row.get("rate_low"), row.get("rate_high")
    interval = ""
    if low is not None and high is not None and not (pd.isna(low) or pd.isna(high)):
        interval = f"95 %: {100 * low:.0f} to {100 * high:.0f} %"
    parts = [interval]
    for column, text in (("broken", "broken {:.0%}"), ("quality", "quality {:.2f}")):
        value = row.get(column)
        parts.append("" if value is None or pd.isna(value) else text.format(value))
    small = " · ".join(x for x in parts if x)
    return {"name": name, "big": f"{100 * row['rate']:.0f} %", "small": small}


def circuit_html(circuit: Circuit | None) -> Markup:
    """The circuit in words, its layers as bars, its strongest neurons."""
    if circuit is None:
        return Markup()
    layers, width = circuit.shape
    rows = [[str(x.layer), str(x.index), signed(x.delta)] for x in circuit.neurons[:10]]
    strongest = page_table(["layer", "neuron", "delta"], rows)
    return render(
        "show/circuit",
        n=len(circuit),
        layers=layers,
        width=width,
        late=100 * circuit.share_in_last_layers(3),
        quarter=100 * circuit.share_in_last_layers(max(1, layers // 4)),
        removed=len(circuit.universal_removed),
        bars=layer_bars(list(circuit.layer_counts)),
        strongest=folded(f"The {len(rows)} strongest neurons", strongest),
    )


_COLUMNS = {  # name -> (heading, columns of its interval, scale), or (heading,)
    "rate": ("behaviour %", "rate_low", "rate_high", 100),
    "other": ("other %", "other_low", "other_high", 100),
    "broken": ("broken %", "broken_low", "broken_high", 100),
    "benign_rate": ("benign %", "benign_low", "benign_high", 100),
    "quality": ("quality", "quality_low", "quality_high", 1),
    "benign_quality": ("benign quality", "benign_quality_low", "benign_quality_high", 1),
    "kl_benign": ("KL, benign", "kl_benign_low", "kl_benign_high", 1),
    "kl_evaluation": ("KL, evaluation",),
    "answer_perplexity": ("perplexity of answers",),
    "relevance": ("relevance", "relevance_low", "relevance_high", 1),
    "perplexity": ("perplexity of a text",),
    "accuracy": ("accuracy %", "accuracy_low", "accuracy_high", 100),
    "p_value": ("p",),
}


def methods_html(table: pd.DataFrame | None) -> Markup:
    """The sweep's table with its intervals."""
    if table is None:
        return Markup()
    columns = [c for c in _COLUMNS if c in table and table[c].notna().any()]
    layers = "layer" in table and table["layer"].notna().any()
    header = ["method", *(["layer"] if layers else []), "strength"]
    header += [str(_COLUMNS[c][0]) for c in columns]
    rows: list[list[str | Markup]] = []
    marks: list[str] = []
    plain = is_unsteered(table)
    for at, row in table.iterrows():
        method = str(row["method"])
        draw = row.get("draw")
        text = "" if draw is None or pd.isna(draw) else f", draw {draw:.0f}"
        cells: list[str | Markup] = [label_of(method) + text]
        cells += [number(row["layer"])] if layers else []
        unnamed = method == "unsteered"
        strength = (
            number(row["strength"]) if unnamed else strength_text(row["kind"], row["strength"])
        )
        cells.append(strength or "–")
        cells += [_cell(row, c) for c in columns]
        rows.append(cells)
        marks.append("plain" if plain.loc[at] else "")
    return render("show/methods", table=page_table(header, rows, marks=marks))


def _cell(row: pd.Series, name: str) -> str | Markup:
    rest = _COLUMNS[name][1:]
    return _interval(row, name, *rest) if rest else number(row.get(name), 2)  # type: ignore[arg-type]


def _interval(row: pd.Series, name: str, low: str, high: str, scale: float) -> str | Markup:
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    shape = "{:.0f}" if scale == 100 else "{:.2f}"
    text = shape.format(scale * value)
    ends = row.get(low), row.get(high)
    if any(e is None or pd.isna(e) for e in ends):
        return text
    range_ = "–".join(shape.format(scale * float(e)) for e in ends)  # type: ignore[arg-type]
    return Markup("{} <span class='range'>{}</span>").format(text, range_)


def settings_html(run: Mapping[str, Any], circuit: Circuit | None) -> Markup:
    """Settings of the run and provenance of the circuit, name by name."""
    out = []
    for title, values in (
        ("Run", _flat(run)),
        ("Circuit", _flat(circuit.provenance if circuit is not None else {})),
    ):
        if values:
            rows = [[Markup("<code>{}</code>").format(k), v] for k, v in values]
            out.append(folded(title, page_table(["name", "value"], rows, kind="names"), open=True))
    return Markup("").join(out)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    out: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out += _flat(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            out.append((name, text if len(text) <= 400 else text[:397] + "…"))
    return out
