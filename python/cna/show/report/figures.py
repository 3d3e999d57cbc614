"""The images of a report, as they lie in the run's folder, and how they stand on the page."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from ...base.html import render
from ..run_figures import CAPTIONS


def stored_images(folder: Path) -> list[tuple[str, bytes]]:
    """(caption, PNG) of the images of a run, in the order of `CAPTIONS`, others last by name."""
    files = [*folder.glob("*.png"), *(folder / "figures").glob("*.png")]
    order = list(CAPTIONS)

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
        out.setdefault(stem, (CAPTIONS.get(stem, stem.replace("_", " ").capitalize()), data))
    return list(out.values())


def figures_html(images: Sequence[tuple[str, bytes]]) -> Markup:
    """Images with captions; wide ones get the whole width."""
    shown = []
    for caption, data in images:
        across, down = struct.unpack(">II", data[16:24])
        encoded = base64.b64encode(data).decode("ascii")
        shown.append({"caption": caption, "data": encoded, "wide": across > 2 * down})
    return render("show/figures", images=shown) if shown else Markup()
