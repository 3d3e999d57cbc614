"""HTML for notebooks: inline styles that read on light and dark pages, escaped text, no scripts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from . import Circuit

POSITIVE = "#d95f02"  # delta above 0: stronger on the positive prompts
NEGATIVE = "#1f8fb4"  # delta below 0
_CELL = "padding:0.15em 0.9em 0.15em 0;text-align:{};border:0;background:none"
_FAINT = "color:currentColor;opacity:0.72"
_TOP = 10


def circuit_html(circuit: Circuit) -> str:
    """A circuit as HTML: summary, neurons per layer as bars, the strongest neurons, provenance."""
    layers, width = circuit.shape
    counts = list(circuit.layer_counts)
    provenance = circuit.provenance
    n = len(circuit)
    share = 100 * n / (layers * width)
    late = 100 * circuit.share_in_last_layers(min(3, layers))
    model = provenance.get("model_id") or provenance.get("model") or ""
    name = f" of <code>{escape(str(model))}</code>" if model else ""
    many = "" if layers == 1 else "s"
    grid = f"{layers} layer{many} × {width:,} neurons"
    head = (
        f"<div><b>Circuit: {n:,} neuron{'' if n == 1 else 's'}</b>{name}"
        f"<br><span style='{_FAINT}'>{share:.3g} % of {grid}; {late:.0f} % in the last "
        f"{min(3, layers)} layer{many}; "
        f"{len(circuit.universal_removed):,} universal neurons kept out</span></div>"
    )
    parts = [head]
    if n:
        parts.append(layer_bars(counts))
        shown = circuit.neurons[:_TOP]
        rows = [
            [str(i), str(x.layer), str(x.index), signed(x.delta)]
            for i, x in enumerate(shown, start=1)
        ]
        caption = "All neurons" if n <= _TOP else f"The {_TOP} strongest of {n:,} neurons"
        parts.append(rows_html(["", "layer", "neuron", "delta"], rows, caption=caption, raw=True))
    else:
        parts.append("<div>No neurons.</div>")
    parts.append(mapping_html("Provenance", provenance))
    return panel(parts)


def panel(parts: Iterable[str]) -> str:
    """Blocks of HTML one below the other, in the page's own colours."""
    style = "font-size:0.95em;line-height:1.45;max-width:52em;overflow-x:auto"
    return f"<div style='{style}'>" + "".join(parts) + "</div>"


def signed(delta: float) -> str:
    """A contrast with its sign, in the colour of the sign (HTML)."""
    if not math.isfinite(delta):
        return "n/a"
    colour = POSITIVE if delta > 0 else NEGATIVE
    mark = "+" if delta > 0 else "−" if delta < 0 else ""
    return f"<span style='color:{colour};font-weight:600'>{mark}</span>{abs(delta):#.4g}"


def layer_bars(counts: Sequence[int]) -> str:
    """Neurons per layer [n_layers] as a strip of bars (inline SVG), layer 0 on the left."""
    layers = len(counts)
    most = max(max(counts, default=0), 1)
    step = min(24.0, 560.0 / max(layers, 1))
    bar, height, foot = max(step * 0.78, 1.0), 56.0, 18.0
    width = max(step * layers, 40.0)
    out = [
        f"<svg role='img' aria-label='Neurons per layer' viewBox='0 0 {width + 4:.1f} "
        f"{height + foot + 14:.1f}' style='display:block;width:100%;max-width:{width + 4:.0f}px;"
        "height:auto;margin:0.5em 0;color:inherit' font-family='inherit' font-size='10'>"
    ]
    base = height + 12
    for layer, count in enumerate(counts):
        tall = height * count / most
        x = 2 + step * layer + (step - bar) / 2
        title = f"<title>layer {layer}: {count}</title>"
        out.append(
            f"<rect x='{x:.1f}' y='{base - max(tall, 1.0):.1f}' width='{bar:.1f}' "
            f"height='{max(tall, 1.0):.1f}' fill='{NEGATIVE if count else 'currentColor'}' "
            f"fill-opacity='{1 if count else 0.25}'>{title}</rect>"
        )
        label = (step >= 18 and count) or (count == max(counts) and count)
        if label:
            anchor, at = "middle", x + bar / 2
            if step < 12 and at > width - 12:
                anchor, at = "end", x + bar
            out.append(
                f"<text x='{at:.1f}' y='{base - tall - 3:.1f}' text-anchor='{anchor}' "
                f"fill='currentColor'>{count}</text>"
            )
    every = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if step * s >= 24 or s == 1000)
    for layer in range(0, layers, every):
        at = 2 + step * (layer + 0.5)
        text = f"layer {layer}" if layer == 0 and step * every >= 70 else str(layer)
        anchor = "start" if layer == 0 and layers > 1 else "middle"
        at = 2.0 if anchor == "start" else at
        out.append(
            f"<text x='{at:.1f}' y='{base + 13:.1f}' text-anchor='{anchor}' fill='currentColor' "
            f"fill-opacity='0.75'>{text}</text>"
        )
    out.append("</svg>")
    caption = f"<div style='{_FAINT};font-size:0.9em'>Neurons per layer</div>"
    return caption + "".join(out)


def rows_html(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    raw: bool = False,
    text_columns: Iterable[int] = (),
) -> str:
    """A table. Cells are escaped unless `raw`; `text_columns` stand left, the others right."""
    left = set(text_columns)

    def cell(tag: str, i: int, value: Any, escaped: bool) -> str:
        style = _CELL.format("left" if i in left else "right")
        return f"<{tag} style='{style}'>{value if escaped else escape(str(value))}</{tag}>"

    head = "".join(cell("th", i, h, False) for i, h in enumerate(header))
    body = "".join(
        "<tr style='background:none'>"
        + "".join(cell("td", i, value, raw) for i, value in enumerate(row))
        + "</tr>"
        for row in rows
    )
    top = f"<div style='{_FAINT};margin-top:0.5em'>{escape(caption)}</div>" if caption else ""
    style = "border-collapse:collapse;margin:0.3em 0;color:inherit;font-size:inherit"
    rule = "border-bottom:1px solid currentColor;background:none"
    return (
        f"{top}<table style='{style}'><thead><tr style='{rule}'>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def number(value: Any, digits: int = 3) -> str:
    """A cell as text: `digits` significant places, a dash where nothing is."""
    if value is None or value is False or value is True:
        return "–" if value is None else ("yes" if value else "no")
    if isinstance(value, str):
        return value
    try:
        x = float(value)
    except (TypeError, ValueError):
        return "–" if str(value) in ("<NA>", "NaT") else str(value)
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == int(x) and abs(x) < 1e9:
        return f"{int(x):,}".replace("-", "−")
    return f"{x:.{digits}g}".replace("-", "−")


def frame_html(frame: pd.DataFrame, *, caption: str = "", most: int = 30, digits: int = 3) -> str:
    """A DataFrame without its index as a table of at most `most` rows."""
    columns = [str(c) for c in frame.columns]
    values = frame.head(most).astype(object).to_numpy().tolist()
    text = [i for i in range(len(columns)) if any(isinstance(row[i], str) for row in values)]
    rows = [[number(v, digits) for v in row] for row in values]
    out = rows_html(columns, rows, caption=caption, text_columns=text)
    if len(frame) > most:
        out += f"<div style='{_FAINT}'>… and {len(frame) - most:,} more rows</div>"
    return out


def mapping_html(title: str, values: Mapping[str, Any]) -> str:
    """Names and values folded away under a title; nothing for an empty mapping."""
    if not values:
        return ""
    rows = [
        [str(k), v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)]
        for k, v in sorted(values.items(), key=lambda item: str(item[0]))
    ]
    rows = [[k, v if len(v) <= 160 else v[:157] + "…"] for k, v in rows]
    table = rows_html(["name", "value"], rows, text_columns=(0, 1))
    return f"<details><summary>{escape(title)}</summary>{table}</details>"
