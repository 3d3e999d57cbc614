"""A circuit in notebooks, as HTML: inline styles, escaped text, no scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from .._core import Circuit, Neuron
from ..base.html import frame_html, mapping_html, number, panel, render, rows_html

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


def circuit_html(circuit: Circuit) -> Markup:
    """A circuit as HTML: summary, neurons per layer as bars, the strongest neurons, provenance."""
    layers, width = circuit.shape
    provenance = circuit.provenance
    n, last = len(circuit), min(3, layers)
    head = render(
        "show/circuit_head",
        n=n,
        model=str(provenance.get("model_id") or provenance.get("model") or ""),
        share=100 * n / sum(circuit.widths),
        layers=layers,
        width=width,
        last=last,
        late=100 * circuit.share_in_last_layers(last),
        removed=len(circuit.universal_removed),
    )
    parts = [head]
    if n:
        rows = [
            [str(i), str(x.layer), *_place(circuit, x), signed(x.delta)]
            for i, x in enumerate(circuit.neurons[:_TOP], start=1)
        ]
        names = ["expert", "neuron"] if circuit.experts else ["neuron"]
        caption = "All neurons" if n <= _TOP else f"The {_TOP} strongest of {n:,} neurons"
        parts.append(layer_bars(list(circuit.layer_counts)))
        parts.append(rows_html(["", "layer", *names, "delta"], rows, caption=caption))
    parts.append(mapping_html("Provenance", provenance))
    return panel(parts)


def _place(circuit: Circuit, neuron: Neuron) -> list[str]:
    """The neuron's index; in a mixture its expert, or "shared", and the index there."""
    if not circuit.experts:
        return [str(neuron.index)]
    expert, index = circuit.expert_of(neuron.layer, neuron.index)
    return ["shared" if expert is None else str(expert), str(index)]


def signed(delta: float) -> Markup:
    """A contrast with its sign, in the colour of the sign."""
    if not math.isfinite(delta):
        return Markup("n/a")
    colour = POSITIVE if delta > 0 else NEGATIVE
    mark = "+" if delta > 0 else "−" if delta < 0 else ""
    return render("show/signed", colour=colour, mark=mark, size=f"{abs(delta):#.4g}")


def layer_bars(counts: Sequence[int], title: str = "Neurons per layer") -> Markup:
    """Neurons per layer [n_layers] as a strip of bars (inline SVG), layer 0 on the left."""
    layers = len(counts)
    most = max(max(counts, default=0), 1)
    step = min(24.0, 560.0 / max(layers, 1))
    bar, height, foot = max(step * 0.78, 1.0), 56.0, 18.0
    width, base = max(step * layers, 40.0), height + 12
    bars, numbers = [], []
    for layer, count in enumerate(counts):
        tall = height * count / most
        x = 2 + step * layer + (step - bar) / 2
        high = max(tall, 1.0)
        bars.append({"layer": layer, "count": count, "x": x, "y": base - high, "height": high})
        if count and (step >= 18 or count == max(counts)):
            anchor, at = "middle", x + bar / 2
            if step < 12 and at > width - 12:
                anchor, at = "end", x + bar
            numbers.append({"x": at, "y": base - tall - 3, "anchor": anchor, "text": count})
    every = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if step * s >= 24 or s == 1000)
    ticks = []
    for layer in range(0, layers, every):
        text = f"layer {layer}" if layer == 0 and step * every >= 70 else str(layer)
        anchor = "start" if layer == 0 and layers > 1 else "middle"
        at = 2.0 if anchor == "start" else 2 + step * (layer + 0.5)
        ticks.append({"x": at, "y": base + 13, "anchor": anchor, "text": text})
    return render(
        "show/layer_bars",
        title=title,
        width=width + 4,
        height=height + foot + 14,
        bar=bar,
        colour=NEGATIVE,
        bars=bars,
        numbers=numbers,
        ticks=ticks,
    )
