"""The images of a report: those in the run's folder, or drawn from its circuit and table."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..._core import Circuit
from .. import plots

_CAPTIONS = {  # file stem -> caption; other images keep their names as captions
    "dose_response": "Behaviour rate against strength, with 95 % Wilson intervals. Dashed: the "
    "rate on benign prompts.",
    "quality_against_effect": "Text quality against the fall of the behaviour rate. Upper right "
    "is better.",
    "matched_kl": "Effect against the distance to the unsteered model (KL), to compare methods "
    "that disturb the model equally.",
    "layer_histogram": "Neurons of the circuit per layer.",
    "neuron_strip": "Each neuron of the circuit; colour is the sign of its contrast.",
    "overlap": "Overlap of two circuits by layer.",
    "stability": "How often resampled discovery prompts choose each neuron, and the overlap of "
    "random halves.",
}


def stored_images(folder: Path) -> list[tuple[str, bytes]]:
    """(caption, PNG) of the images of a run, in the order of `_CAPTIONS`, others last by name."""
    files = [*folder.glob("*.png"), *(folder / "figures").glob("*.png")]
    order = list(_CAPTIONS)

    def place(path: Path) -> tuple[int, str]:
        stem = path.stem.replace("-", "_")
        return (order.index(stem) if stem in order else len(order), path.name)

    out: dict[str, tuple[str, bytes]] = {}
    for path in sorted(files, key=place):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RuntimeError(
                f"write_report: expected to read '{path}', got: {error.strerror or error}; check it"
            ) from None
        if not data.startswith(b"\x89PNG") or len(data) < 24:
            raise ValueError(
                f"write_report: expected a PNG image, got something else in '{path}'; delete it"
            )
        stem = path.stem.replace("-", "_")
        out.setdefault(stem, (_CAPTIONS.get(stem, stem.replace("_", " ").capitalize()), data))
    return list(out.values())


def drawn_images(circuit: Circuit | None, table: pd.DataFrame | None) -> list[tuple[str, bytes]]:
    """Figures from what is there; those that the table has no columns for are left out."""
    wanted: list[tuple[str, Callable[[], Figure]]] = []
    if table is not None:
        frame = table
        wanted += [
            ("dose_response", lambda: plots.dose_response(frame)),
            ("quality_against_effect", lambda: plots.quality_against_effect(frame)),
            ("matched_kl", lambda: plots.matched_kl(frame)),
        ]
    if circuit is not None:
        wanted.append(("neuron_strip", lambda: plots.neuron_strip(circuit)))
    out = []
    for name, draw in wanted:
        try:
            figure = draw()
        except ValueError:
            continue
        out.append((_CAPTIONS[name], plots.png(figure)))
    return out


def figures_html(images: Sequence[tuple[str, bytes]]) -> str:
    """Images with captions; wide ones get the whole width."""
    out = []
    for caption, data in images:
        uri = base64.b64encode(data).decode("ascii")
        text = escape(caption)
        across, down = struct.unpack(">II", data[16:24])
        wide = " class='wide'" if across > 2 * down else ""
        image = f"<img alt='{text}' src='data:image/png;base64,{uri}'>"
        out.append(
            f"<figure{wide}><div class='frame'>{image}</div>"
            f"<figcaption>{text}</figcaption></figure>"
        )
    return "".join(out)
