"""Figures of circuits and sweeps: static, off-line, legible to colour-blind readers.

Every function returns a matplotlib Figure made without pyplot, so nothing global changes; it shows
itself in a notebook, and `save` writes it. A sweep's table has one row per (method, layer,
strength); missing columns and NaN leave gaps, never errors, unless nothing is left to draw.
"""

from __future__ import annotations

from .alphas import accuracy_by_alpha
from .circuits import layer_histogram, neuron_strip, overlap, stability
from .files import png, save
from .layers import layers_by_ranking
from .sweeps import dose_response, matched_kl, quality_against_effect

__all__ = [
    "accuracy_by_alpha",
    "dose_response",
    "layer_histogram",
    "layers_by_ranking",
    "matched_kl",
    "neuron_strip",
    "overlap",
    "png",
    "quality_against_effect",
    "save",
    "stability",
]
