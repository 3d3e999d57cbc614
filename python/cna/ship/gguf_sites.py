"""Where a GGUF file keeps the neurons of a circuit: a matrix a layer, or those of all experts in one.

blk.3.ffn_up.weight         [width, hidden]            a dense MLP
blk.3.ffn_up_exps.weight    [experts, width, hidden]   all experts of a layer
blk.3.ffn_up_shexp.weight   [width, hidden]            what every token sees, behind the experts

The same names with ffn_down hold [hidden, width]; GGUF itself counts dimensions from the last one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Part:
    """Neurons of a layer that lie in one tensor.

    Attributes:
        layer: of the model.
        suffix: of the tensor's name, "" for a dense MLP.
        experts: how many lie in it; 1 where it is a matrix.
        width: neurons of each.
        first: place in the layer of its first neuron.
    """

    layer: int
    suffix: str
    experts: int
    width: int
    first: int = 0

    def name(self, what: str) -> str:
        """Of its "ffn_up", "ffn_gate" or "ffn_down"."""
        return f"blk.{self.layer}.{what}{self.suffix}.weight"

    def own(self, neurons: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """Its neurons of a circuit, by expert, counted from the expert's first."""
        out: dict[int, list[int]] = {}
        for j in neurons.get(self.layer, ()):
            expert, index = divmod(j - self.first, self.width)
            if 0 <= expert < self.experts:
                out.setdefault(expert, []).append(index)
        return out


def parts_of(widths: Sequence[int], experts: Sequence[tuple[int, int]] = ()) -> list[Part]:
    """The tensors of all layers that have neurons, given each layer's width and experts."""
    out = []
    for layer, width in enumerate(widths):
        count, each = experts[layer] if experts else (0, 0)
        if count:
            out.append(Part(layer, "_exps", count, each))
        if rest := width - count * each:
            out.append(Part(layer, "_shexp" if count else "", 1, rest, count * each))
    return out


def part_tensors(reader: Any, what: str, path: Path, parts: Sequence[Part]) -> dict[Part, Any]:
    """The tensor of each part, checked against the circuit's experts; `what`: "ffn_up" or "ffn_down".

    Raises:
        ValueError: a tensor is missing, of another form, or there are more layers than the circuit has.
    """
    found = {t.name: t for t in reader.tensors}
    endings = {f".{what}{part.suffix}.weight" for part in parts}
    have = sum(n.startswith("blk.") and n.endswith(tuple(endings)) for n in found)
    missing = [name for part in parts if (name := part.name(what)) not in found]
    if have == 0 or (missing and have == len(parts)):
        kind = "no dense MLP" if not parts[0].suffix else "no mixture with such experts"
        raise ValueError(
            f"convert: expected the tensor '{missing[0]}' in '{path}', found none; it is {kind}, or a "
            "part of a split file (merge with llama-gguf-split --merge)"
        )
    if missing or have > len(parts):
        several = len({part.layer for part in parts}) < len(parts)
        raise ValueError(
            f"convert: expected {len(parts)} {'tensors' if several else 'layers'} for this circuit, got "
            f"{have} in '{path}'; use the model that it was found on"
        )
    return {part: _checked(found[part.name(what)], part, path) for part in parts}


def _checked(tensor: Any, part: Part, path: Path) -> Any:
    mixed = part.suffix == "_exps"
    form = "the matrices of all experts" if mixed else "a matrix"
    if len(tensor.shape) != 2 + mixed:
        raise ValueError(
            f"convert: expected {form} as '{tensor.name}' in '{path}', got {len(tensor.shape)} "
            "dimensions; pass the file of the model that the circuit was found on"
        )
    if mixed and int(tensor.shape[2]) != part.experts:
        raise ValueError(
            f"convert: expected {part.experts} experts in layer {part.layer} for this circuit, got "
            f"{int(tensor.shape[2])} in '{path}'; use the model that it was found on"
        )
    return tensor
