"""A figure as a file or as the bytes of an image."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from ...base.files import write_whole
from .style import image

_SUFFIXES = (".png", ".svg", ".pdf")


def save(fig: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Writes a figure as .png, .svg or .pdf: the whole file is there afterwards, or the old one.

    Raises ValueError for another ending or a folder that is not there; RuntimeError if the file
    cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in _SUFFIXES:
        raise ValueError(
            f"save: expected a path ending in {', '.join(_SUFFIXES)}, got '{path}'; choose one"
        )
    if not path.parent.is_dir():
        raise ValueError(f"save: expected a folder '{path.parent}', found none; make it first")
    data = image(fig, kind[1:], dpi)
    write_whole(path, lambda temporary: temporary.write_bytes(data))
    return path


def png(fig: Figure, *, dpi: int = 130) -> bytes:
    """A figure as the bytes of a PNG image."""
    return image(fig, "png", dpi)
