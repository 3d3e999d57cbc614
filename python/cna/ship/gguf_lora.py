"""A circuit as a GGUF LoRA adapter, which llama.cpp and Ollama apply to an unchanged base.

The same A and B as in `lora`, named `blk.N.ffn_down.weight.lora_a` [r, width] and `.lora_b`
[hidden, r]; of all experts of a layer, `ffn_down_exps` [experts, r, width] and [experts, hidden, r].
With a GGUF base as source, B comes from its own (dequantised) weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .expert_tensors import expert_projections
from .files import down_projections, model_type, output_file, require
from .folded import checkpoint
from .gguf_file import architecture, finish, gguf_path, open_gguf
from .gguf_sites import Part, part_tensors, parts_of
from .lora import factors

# Where llama.cpp's name of an architecture is not the model_type of transformers.
_ARCHITECTURES = {
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "cohere": "command-r",
}

# By tensor and expert: the indices of its neurons, and W[:, S] [hidden, len(S)] of them.
_Columns = dict[Part, dict[int, tuple[list[int], Tensor]]]


def _of_gguf(neurons: dict[int, list[int]], parts: list[Part], path: Path) -> tuple[str, _Columns]:
    """Architecture and columns of ffn_down, dequantised to float32."""
    quants = require("gguf").quants
    reader = open_gguf(path)
    columns: _Columns = {}
    for part, tensor in part_tensors(reader, "ffn_down", path, parts).items():
        if int(tensor.shape[0]) != part.width:
            raise ValueError(
                f"convert: expected {part.width} neurons in layer {part.layer} for this circuit, got "
                f"{int(tensor.shape[0])} in '{path}'; use the model that it was found on"
            )
        for expert, own in part.own(neurons).items():
            data = tensor.data[expert] if part.suffix == "_exps" else tensor.data
            try:
                weight = quants.dequantize(data, tensor.tensor_type)
            except NotImplementedError:
                raise ValueError(
                    "convert: expected a type that the gguf package reads, got "
                    f"{tensor.tensor_type.name} in '{tensor.name}'; pass the Hugging Face checkpoint "
                    "as source"
                ) from None
            taken = torch.from_numpy(weight[:, own].astype("float32"))
            columns.setdefault(part, {})[expert] = (own, taken)
    return architecture(reader, path), columns


def _of_checkpoint(
    neurons: dict[int, list[int]],
    parts: list[Part],
    widths: list[int],
    experts: Sequence[tuple[int, int]],
    folder: Path,
    pattern: str,
) -> tuple[str, _Columns]:
    """Architecture and columns of the down projections of a Hugging Face checkpoint."""
    name = _architecture(folder)
    sites = (
        expert_projections(folder, widths, experts)
        if experts
        else down_projections(folder, widths, pattern)
    )
    columns: _Columns = {}
    for site in sites:
        if own := site.own(neurons):
            part, expert = next(
                (p, (site.first - p.first) // p.width)
                for p in parts
                if p.layer == site.layer and 0 <= site.first - p.first < p.experts * p.width
            )
            weight = site.tensor.read()
            weight = weight.T if site.transposed else weight
            columns.setdefault(part, {})[expert] = (own, weight[:, own].clone())
    return name, columns


def _architecture(folder: Path) -> str:
    kind = model_type(folder)
    name = _ARCHITECTURES.get(kind, kind.replace("_", "-"))
    known = set(require("gguf").MODEL_ARCH_NAMES.values())
    for candidate in (name, kind, kind.replace("_", "")):
        if candidate in known:
            return str(candidate)
    raise ValueError(
        f"convert: expected an architecture that llama.cpp knows, got '{kind}'; pass the GGUF "
        "base as source"
    )


def write_gguf_lora(
    neurons: dict[int, list[int]],
    widths: list[int],
    source: Any,
    path: Path,
    multiplier: float,
    *,
    experts: Sequence[tuple[int, int]] = (),
    pattern: str = "",
    overwrite: bool = False,
) -> int:
    """Writes a GGUF adapter; returns its rank. See `cna.convert`."""
    gguf = require("gguf")
    file = gguf_path(source)
    parts = parts_of(widths, experts)
    if file is not None:
        kind, columns = _of_gguf(neurons, parts, file)
    else:
        with checkpoint(source, path) as (folder, _):
            kind, columns = _of_checkpoint(neurons, parts, widths, experts, folder, pattern)
    rank = max(len(own) for experts_of in columns.values() for own, _ in experts_of.values())
    with output_file(path, overwrite) as target:
        writer = gguf.GGUFWriter(target, kind)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(f"cna circuit, multiplier {multiplier:g}")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(rank))
        for part, found in sorted(columns.items(), key=lambda item: item[0].name("ffn_down")):
            a, b = _factors(part, found, multiplier, rank)
            writer.add_tensor(part.name("ffn_down") + ".lora_a", a.numpy())
            writer.add_tensor(part.name("ffn_down") + ".lora_b", b.numpy())
        finish(writer)
    return rank


def _factors(
    part: Part, found: dict[int, tuple[list[int], Tensor]], multiplier: float, rank: int
) -> tuple[Tensor, Tensor]:
    """A and B of one tensor; of all its experts, zero where one has none of the circuit's neurons."""
    made = {e: factors(c, own, part.width, multiplier, rank) for e, (own, c) in found.items()}
    if part.suffix != "_exps":
        a, b = made[0]
        return a, b
    some_a, some_b = next(iter(made.values()))
    none = (torch.zeros_like(some_a), torch.zeros_like(some_b))
    every = [made.get(e, none) for e in range(part.experts)]
    return torch.stack([a for a, _ in every]), torch.stack([b for _, b in every])
