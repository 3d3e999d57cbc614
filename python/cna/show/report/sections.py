"""Sections of the page: headline rates, the circuit, methods and strengths, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from ..._core import Circuit
from ...base.html import number
from ..display import layer_bars, signed
from ..plots.tables import is_added, is_unsteered
from .settings import METHODS, Setting, row_of, setting_name, unsteered_row


def lead_html(table: pd.DataFrame | None, chosen: Mapping[str, Setting]) -> str:
    """Tiles with the rates that matter most."""
    if table is None or not chosen:
        return ""
    base = unsteered_row(table)
    items = []
    if base is not None:
        items.append(_tile("Unsteered", base))
    for setting in chosen.values():
        row = row_of(table, setting)
        if row is not None:
            items.append(_tile(setting_name(setting), row))
    note = ""
    if "caa" in chosen:
        note = (
            "<p class='note'>The CAA setting shown is the one with the lowest rate among those "
            "that keep 95 % of the unsteered quality; it was picked on these very prompts.</p>"
        )
    return f"<div class='tiles'>{''.join(items)}</div>{note}"


def _tile(name: str, row: pd.Series) -> str:
    low, high = row.get("rate_low"), row.get("rate_high")
    interval = ""
    if low is not None and high is not None and not (pd.isna(low) or pd.isna(high)):
        interval = f"95 %: {100 * low:.0f} to {100 * high:.0f} %"
    quality = row.get("quality")
    text = "" if quality is None or pd.isna(quality) else f"quality {quality:.2f}"
    small = " · ".join(x for x in (interval, text) if x)
    return (
        f"<div class='tile'><div class='name'>{escape(name)}</div>"
        f"<div class='big'>{100 * row['rate']:.0f} %</div><div class='small'>{small}</div></div>"
    )


def circuit_html(circuit: Circuit | None) -> str:
    """The circuit in words, its layers as bars, its strongest neurons."""
    if circuit is None:
        return ""
    layers, width = circuit.shape
    n, late = len(circuit), 100 * circuit.share_in_last_layers(3)
    quarter = max(1, layers // 4)
    words = (
        f"<p>{n:,} of {layers * width:,} MLP neurons ({100 * n / (layers * width):.2g} %) in "
        f"{layers} layers of {width:,}; {late:.0f} % of them in the last three layers, "
        f"{100 * circuit.share_in_last_layers(quarter):.0f} % in the last quarter. "
        f"{len(circuit.universal_removed):,} universal neurons, which fire hard for almost every "
        "prompt, were kept out.</p>"
    )
    rows = [[str(x.layer), str(x.index), signed(x.delta)] for x in circuit.neurons[:10]]
    strongest = table_html(["layer", "neuron", "delta"], rows)
    return (
        f"{words}<div class='bars'>{layer_bars(list(circuit.layer_counts))}</div>"
        f"<details><summary>The {len(rows)} strongest neurons</summary>{strongest}</details>"
    )


_COLUMNS = {  # name -> (heading, columns of its interval, scale), or (heading,)
    "rate": ("behaviour %", "rate_low", "rate_high", 100),
    "benign_rate": ("benign %", "benign_low", "benign_high", 100),
    "quality": ("quality", "quality_low", "quality_high", 1),
    "kl": ("KL, nats per token",),
    "perplexity": ("perplexity",),
    "accuracy": ("accuracy %", "accuracy_low", "accuracy_high", 100),
    "p_value": ("p",),
}


def methods_html(table: pd.DataFrame | None) -> str:
    """The sweep's table with its intervals."""
    if table is None:
        return ""
    columns = [c for c in _COLUMNS if c in table and table[c].notna().any()]
    layers = "layer" in table and table["layer"].notna().any()
    header = ["method", *(["layer"] if layers else []), "strength"]
    header += [str(_COLUMNS[c][0]) for c in columns]
    rows: list[list[str]] = []
    marks: list[str] = []
    plain = is_unsteered(table)
    for at, row in table.iterrows():
        method = str(row["method"])
        sign = "" if method == "unsteered" else "c = " if is_added(method) else "m = "
        cells = [escape(METHODS.get(method, method))]
        cells += [number(row["layer"])] if layers else []
        cells.append(f"{sign}{number(row['strength'])}")
        cells += [_cell(row, c) for c in columns]
        rows.append(cells)
        marks.append("plain" if plain.loc[at] else "")
    note = (
        "<p class='note'>m multiplies the neurons (1 is the model itself, 0 ablates them); c is "
        "the coefficient of an added vector (0 is the model itself). Small figures are 95 % "
        "intervals. p: exact McNemar test against the unsteered answers, not corrected for the "
        "number of rows. Unsteered rows are shaded.</p>"
    )
    return table_html(header, rows, marks=marks) + note


def _cell(row: pd.Series, name: str) -> str:
    rest = _COLUMNS[name][1:]
    return _interval(row, name, *rest) if rest else number(row.get(name), 2)  # type: ignore[arg-type]


def _interval(row: pd.Series, name: str, low: str, high: str, scale: float) -> str:
    value = row.get(name)
    if value is None or pd.isna(value):
        return "–"
    shape = "{:.0f}" if scale == 100 else "{:.2f}"
    text = shape.format(scale * value)
    ends = row.get(low), row.get(high)
    if any(e is None or pd.isna(e) for e in ends):
        return text
    range_ = "–".join(shape.format(scale * float(e)) for e in ends)  # type: ignore[arg-type]
    return f"{text} <span class='range'>{range_}</span>"


def settings_html(run: Mapping[str, Any], circuit: Circuit | None) -> str:
    """Settings of the run and provenance of the circuit, name by name."""
    out = []
    for title, values in (
        ("Run", _flat(run)),
        ("Circuit", _flat(circuit.provenance if circuit is not None else {})),
    ):
        if values:
            rows = [[f"<code>{escape(k)}</code>", escape(v)] for k, v in values]
            body = table_html(["name", "value"], rows, kind="names")
            out.append(f"<details open><summary>{title}</summary>{body}</details>")
    return "".join(out)


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


def table_html(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    marks: Sequence[str] = (),
    kind: str = "numbers",
) -> str:
    """A table that scrolls by itself; cells are HTML, `marks` are classes of rows."""
    head = "".join(f"<th>{escape(h)}</th>" for h in header)
    body = []
    for i, row in enumerate(rows):
        mark = f" class='{marks[i]}'" if marks and marks[i] else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>")
    return (
        f"<div class='scroll'><table class='{kind}'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
