"""Files that other engines serve: a circuit at one strength, written for each of them.

cna.convert(circuit, "model-folder", "steered", format="hf", multiplier=0.0)
"""

from __future__ import annotations

from .authors_json import read_authors_json, write_authors_json
from .control_vector import load_control_vector, save_control_vector
from .conversion import FORMATS, Conversion, convert

__all__ = [
    "FORMATS",
    "Conversion",
    "convert",
    "load_control_vector",
    "read_authors_json",
    "save_control_vector",
    "write_authors_json",
]
