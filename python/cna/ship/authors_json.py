"""Circuits as the released tool of the paper's authors keeps them, in both directions.

    {"neurons": {"layer,position,neuron": value, ...},
     "prompt": text, "target_token": text, "total_logit_diff": number}

A contrastive circuit has position -1, the contrast delta as value, "[contrastive]" as target and a
prompt such as "[contrastive: 8 pos vs 8 neg]". The file names no model and no size.
Source: the README and circuit files of NousResearch/neural-steering.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._core import Circuit, Neuron
from ..base.files import require_file
from .files import output_file


def read_authors_json(
    path: str | os.PathLike[str], shape: tuple[int, int], widths: Sequence[int] | None = None
) -> Circuit:
    """A circuit from the authors' JSON.

    A neuron that is listed at several positions counts once, with its largest |value|: steering
    acts at every position in both tools.

    Args:
        shape: (n_layers, width) of the model, which the file does not name.
        widths: neurons of each layer, where they differ.
    Raises:
        FileNotFoundError: nothing is there.
        RuntimeError: the file cannot be read.
        ValueError: not such a file.
        IndexError: a neuron outside `shape`.
    """
    path = Path(path)
    require_file(path, "read_authors_json")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RuntimeError(
            f"read_authors_json: expected to read '{path}', got {error.strerror}; check the path"
        ) from None
    except ValueError:
        raise ValueError(
            f"read_authors_json: expected JSON in '{path}', got something else; save the circuit "
            "again"
        ) from None
    found: dict[tuple[int, int], float] = {}
    positions: set[int] = set()
    try:
        for key, value in data["neurons"].items():
            layer, position, index = (int(part) for part in key.split(","))
            value = float(value)
            if not math.isfinite(value):
                raise ValueError
            positions.add(position)
            if abs(value) >= abs(found.get((layer, index), 0.0)):
                found[layer, index] = value
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            "read_authors_json: expected \"neurons\" with keys 'layer,position,neuron' and finite "
            f"numbers in '{path}', got something else; pass a file that the authors' tool saved"
        ) from None
    n_layers, width = shape
    for layer, index in found:
        if not (0 <= layer < n_layers and 0 <= index < width):
            raise IndexError(
                f"read_authors_json: expected neurons inside {n_layers} x {width}, got ({layer}, "
                f"{index}); pass the shape of the circuit's own model"
            )
    provenance: dict[str, Any] = {"format": "authors-json", "positions": sorted(positions)}
    for name in ("prompt", "target_token", "total_logit_diff"):
        if name in data:
            provenance[name] = data[name]
    neurons = [Neuron(layer, index, value) for (layer, index), value in found.items()]
    return Circuit(
        (n_layers, width), neurons, provenance, widths=None if widths is None else list(widths)
    )


def write_authors_json(
    circuit: Circuit, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Writes a circuit as the authors' tool loads it: strongest first, position -1.

    Raises:
        ValueError: a file is there and `overwrite` is False.
        RuntimeError: the file cannot be written.
    """
    path = Path(path)
    known = circuit.provenance
    data = {
        "neurons": {f"{n.layer},-1,{n.index}": n.delta for n in circuit.neurons},
        "prompt": str(known.get("prompt", "[contrastive]")),
        "target_token": str(known.get("target_token", "[contrastive]")),
        "total_logit_diff": float(known.get("total_logit_diff", 0.0)),
    }
    with output_file(path, overwrite) as target:
        target.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return path
