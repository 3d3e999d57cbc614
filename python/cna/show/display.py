"""A circuit in notebooks, as HTML: inline styles, escaped text, no scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from .._core import Circuit
from ..base.html import FAINT, frame_html, mapping_html, number, panel, rows_html

__all__ = [
    "NEGATIVE",
    "POSITIVE",
    "circuit_html",
    "frame_html",
    "layer_bars",
    "mapping_html",
    "number",
    "panel",
    "rows_html",
    "signed",
]

POSITIVE = "#d95f02"  # delta above 0: stronger on the positive prompts
NEGATIVE = "#1f8fb4"  # delta below 0
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
        f"<br><span style='{FAINT}'>{share:.3g} % of {grid}; {late:.0f} % in the last "
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
    caption = f"<div style='{FAINT};font-size:0.9em'>Neurons per layer</div>"
    return caption + "".join(out)
