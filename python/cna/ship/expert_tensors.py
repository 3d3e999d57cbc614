"""The down projections of a mixture's checkpoint: its experts', fused or apart, and those beside them.

experts.down_proj             [experts, hidden, width], or [experts, width, hidden]: fused
experts.3.down_proj.weight    [hidden, width]: apart; Mixtral's are called w2
shared_expert.down_proj       what every token sees, behind the experts in its layer
mlp.down_proj                 a dense layer before or between those with experts
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from .files import TORCH_TYPES, DownProjection, Stored, model_type, read_header, weight_files

_NAME = re.compile(r"^(?P<stem>.*?)\.(?P<layer>\d+)\.(?P<rest>.+)$")
_APART = re.compile(r"(^|\.)experts\.(?P<expert>\d+)\.(down_proj|w2)\.weight$")
_FUSED = re.compile(r"(^|\.)(experts\.down_proj|mlp\.output_linear)(\.weight)?$")
_SHARED = re.compile(r"(^|\.)(shared_experts?|shared_mlp)\.(down_proj|output_linear|w2)\.weight$")
_DENSE = re.compile(r"(^|\.)(mlp|feed_forward|mixer)\.(down_proj|w2)\.weight$")
_TRANSPOSED_TYPES = ("gpt_oss", "llama4", "llama4_text", "aria_text")  # [experts, width, hidden]


def expert_projections(
    folder: Path, widths: Sequence[int], experts: Sequence[tuple[int, int]]
) -> list[DownProjection]:
    """Every down projection of a mixture's checkpoint, each with the place of its neurons.

    Args:
        widths, experts: of the circuit, by layer.
    Raises:
        ValueError: a layer whose tensors are not those of the circuit's model, or no plain numbers.
    """
    by_rows = model_type(folder) in _TRANSPOSED_TYPES
    found: dict[str, dict[int, list[DownProjection]]] = {}
    for file in weight_files(folder):
        for tensor in read_header(file):
            name = _NAME.match(tensor.name)
            layer = int(name["layer"]) if name else -1
            if name is None or layer >= len(widths):
                continue
            sites = _sites(tensor, layer, name["rest"], experts[layer], by_rows)
            found.setdefault(name["stem"], {}).setdefault(layer, []).extend(sites)
    best = max(found.values(), key=lambda layers: sum(map(len, layers.values())), default={})
    out = []
    for layer, width in enumerate(widths):
        sites = best.get(layer, [])
        places = sorted((s.first, s.width) for s in sites)
        filled = 0
        for first, size in places:
            filled = filled + size if first == filled else -1
        if filled != width:
            raise ValueError(
                f"convert: expected {width} neurons in the down projections of layer {layer} in "
                f"'{folder}', got {sum(size for _, size in places)} in {len(places)} tensors; use the "
                "model that the circuit was found on"
            )
        out += sites
    return out


def _sites(
    tensor: Stored, layer: int, rest: str, experts: tuple[int, int], by_rows: bool
) -> list[DownProjection]:
    count, width = experts
    if apart := _APART.search(rest):
        return [_site(tensor, layer, int(apart["expert"]) * width, False)]
    if count and _FUSED.search(rest) and len(tensor.shape) == 3:
        return [_site(t, layer, e * width, by_rows) for e, t in enumerate(_slices(tensor))]
    shared = bool(_SHARED.search(rest))
    if len(tensor.shape) == 2 and (shared or (_DENSE.search(rest) and not _APART.search(rest))):
        return [_site(tensor, layer, count * width, False)]
    return []


def _slices(tensor: Stored) -> list[Stored]:
    """A tensor [experts, rows, columns] as one of each expert, in the same bytes."""
    count, *shape = tensor.shape
    size = (tensor.end - tensor.begin) // count
    return [
        dataclasses.replace(
            tensor,
            shape=tuple(shape),
            begin=tensor.begin + i * size,
            end=tensor.begin + (i + 1) * size,
        )
        for i in range(count)
    ]


def _site(tensor: Stored, layer: int, first: int, transposed: bool) -> DownProjection:
    if tensor.dtype not in TORCH_TYPES:
        raise ValueError(
            f"convert: expected float weights, got {tensor.dtype} in '{tensor.name}'; convert the "
            "checkpoint that was not quantised"
        )
    return DownProjection(layer, tensor, transposed, first)
