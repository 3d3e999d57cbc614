"""A circuit as a GGUF LoRA adapter, which llama.cpp and Ollama apply to an unchanged base.

The same A and B as in `lora`, named `blk.N.ffn_down.weight.lora_a` [r, width] and `.lora_b`
[hidden, r]. With a GGUF base as source, B comes from its own (dequantised) weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import model_type, output_file, require
from .folded import checkpoint
from .gguf_header import check_header, one_line
from .lora import factors, hf_columns

# Where llama.cpp's name of an architecture is not the model_type of transformers.
_ARCHITECTURES = {
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "cohere": "command-r",
}


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`; one clear line for what is no whole GGUF file."""
    gguf = require("gguf")
    if not path.is_file():
        raise FileNotFoundError(
            f"convert: expected a GGUF file at '{path}', found none; check the path"
        )
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    try:
        little = check_header(path, sizes) and sys.byteorder == "little"
        reader = gguf.GGUFReader(path) if little else None
    except OSError as error:
        raise RuntimeError(
            f"convert: expected to read '{path}', got {error.strerror}; check its permissions"
        ) from None
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"convert: expected a whole GGUF file, got '{path}' ({one_line(str(error))}); download "
            "it again"
        ) from None
    if reader is None:
        raise ValueError(
            f"convert: expected a little-endian GGUF file, got '{path}'; convert its byte order "
            "first"
        )
    return reader


def gguf_path(source: Any) -> Path | None:
    """The GGUF file behind a source ("smollm2" included), or None for other sources."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    text = os.fspath(source)
    if text == "smollm2" and not Path(text).exists():
        from ..hosts.hugging_face import smollm2_source

        folder, name = smollm2_source()
        return folder / name
    path = Path(text).expanduser()
    return path if path.is_file() or path.suffix == ".gguf" else None


def layer_tensors(reader: Any, name: str, path: Path, widths: list[int]) -> dict[int, Any]:
    """Tensors `blk.N.<name>` of all layers that have neurons, by layer."""
    found = {t.name: t for t in reader.tensors}
    have = sum(n.startswith("blk.") and n.endswith(f".{name}") for n in found)
    layers = [layer for layer, width in enumerate(widths) if width]
    n_layers = len(layers)
    missing = [f"blk.{i}.{name}" for i in layers if f"blk.{i}.{name}" not in found]
    if have == 0 or (missing and have == n_layers):
        hint = "it is no dense MLP, or a part of a split file (merge with llama-gguf-split --merge)"
        raise ValueError(
            f"convert: expected the tensor '{missing[0]}' in '{path}', found none; {hint}"
        )
    if missing or have > n_layers:
        raise ValueError(
            f"convert: expected {n_layers} layers for this circuit, got {have} in '{path}'; use "
            "the model that it was found on"
        )
    tensors = {i: found[f"blk.{i}.{name}"] for i in layers}
    for tensor in tensors.values():
        if len(tensor.shape) != 2:
            raise ValueError(
                f"convert: expected a matrix as '{tensor.name}' in '{path}', got "
                f"{len(tensor.shape)} dimensions; pass the file of a dense model"
            )
    return tensors


def _base_architecture(reader: Any, path: Path) -> str:
    field = reader.fields.get("general.architecture")
    try:
        name = field.contents() if field is not None else None
    except UnicodeDecodeError:
        name = None
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"convert: expected the name of an architecture in '{path}', got none; download it "
            "again"
        )
    return name


def gguf_columns(
    neurons: dict[int, list[int]], widths: list[int], path: Path
) -> tuple[str, dict[int, Tensor]]:
    """Architecture and, by layer, W[:, S] [hidden, len(S)] of ffn_down, dequantised to float32."""
    quants = require("gguf").quants
    reader = open_gguf(path)
    columns = {}
    for layer, tensor in layer_tensors(reader, "ffn_down.weight", path, widths).items():
        width = widths[layer]
        if int(tensor.shape[0]) != width:
            raise ValueError(
                f"convert: expected {width} neurons in layer {layer} for this circuit, got "
                f"{int(tensor.shape[0])} in '{path}'; use the model that it was found on"
            )
        if layer not in neurons:
            continue
        try:
            weight = quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ValueError(
                "convert: expected a type that the gguf package reads, got "
                f"{tensor.tensor_type.name} in '{tensor.name}'; pass the Hugging Face checkpoint "
                "as source"
            ) from None
        columns[layer] = torch.from_numpy(weight[:, neurons[layer]].astype("float32"))
    return _base_architecture(reader, path), columns


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
    pattern: str = "",
    overwrite: bool = False,
) -> int:
    """Writes a GGUF adapter; returns its rank. See `cna.convert`."""
    gguf = require("gguf")
    file = gguf_path(source)
    if file is not None:
        architecture, columns = gguf_columns(neurons, widths, file)
    else:
        with checkpoint(source, path) as (folder, _):
            architecture = _architecture(folder)
            found = hf_columns(neurons, widths, folder, pattern)
            columns = {layer: part for layer, (_, _, part) in found.items()}
    rank = max(len(s) for s in neurons.values())
    with output_file(path, overwrite) as target:
        writer = gguf.GGUFWriter(target, architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(f"cna circuit, multiplier {multiplier:g}")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(rank))
        for layer, part in sorted(columns.items()):
            a, b = factors(part, neurons[layer], widths[layer], multiplier, rank)
            writer.add_tensor(f"blk.{layer}.ffn_down.weight.lora_a", a.numpy())
            writer.add_tensor(f"blk.{layer}.ffn_down.weight.lora_b", b.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return rank
