"""What is converted and where it goes: checkpoints, their tensors, whole files or none.

A safetensors file is 8 bytes of header length (little endian), a JSON header with the type, the
shape and the place of each tensor, then the tensors. Only headers are read here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..base.files import new_file, new_folder
from ..hosts.sites import DOWN_PROJECTION

MARK = "cna_conversion.json"
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_TRANSPOSED_TYPES = ("gpt2", "openai-gpt")  # their linears keep weights as [in, out]


def require(package: str) -> Any:
    """An optional package; RuntimeError names the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise RuntimeError(
            f"convert: expected the package {package} for this format, found none; "
            f"pip install {package}"
        ) from None


@contextlib.contextmanager
def output_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well."""
    if path.is_file():
        raise ValueError(f"convert: expected a folder at '{path}', got a file; choose another path")
    if path.is_dir() and any(path.iterdir()) and not (overwrite and (path / MARK).exists()):
        raise ValueError(
            f"convert: expected no files at '{path}', got some; choose another folder "
            "(overwrite=True replaces an earlier conversion)"
        )
    with new_folder(path, "convert") as folder:
        yield folder


@contextlib.contextmanager
def output_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well."""
    if path.is_dir():
        raise ValueError(f"convert: expected a file at '{path}', got a folder; add a file name")
    if path.exists() and not overwrite:
        raise ValueError(
            f"convert: expected no file at '{path}', got one; choose another name or pass "
            "overwrite=True"
        )
    with new_file(path, "convert") as temporary:
        yield temporary


@dataclasses.dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file; `begin` and `end` are bytes from the file's start."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def read(self) -> torch.Tensor:
        """The whole tensor, in its own type."""
        with self.file.open("rb") as file:
            file.seek(self.begin)
            data = bytearray(file.read(self.end - self.begin))
        return torch.frombuffer(data, dtype=TORCH_TYPES[self.dtype]).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class DownProjection:
    """A down projection of one layer. `transposed`: weights kept as [width, hidden].

    `first`: place in the layer of its first neuron, where a layer has several (experts).
    """

    layer: int
    tensor: Stored
    transposed: bool
    first: int = 0

    @property
    def width(self) -> int:
        """Its neurons."""
        return self.tensor.shape[0 if self.transposed else 1]

    def own(self, neurons: dict[int, list[int]]) -> list[int]:
        """Which of a circuit's neurons, indices by layer, are its own, counted from its first."""
        last = self.first + self.width
        return [j - self.first for j in neurons.get(self.layer, ()) if self.first <= j < last]

    @property
    def module(self) -> str:
        return self.tensor.name.removesuffix(".weight")


def read_header(path: Path) -> list[Stored]:
    """Tensors of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(path.stat().st_size, 1 << 30):
                raise ValueError
            entries = json.loads(file.read(length))
        out = []
        for name, entry in entries.items():
            if name != "__metadata__":
                begin, end = (8 + length + int(o) for o in entry["data_offsets"])
                shape = tuple(int(n) for n in entry["shape"])
                dtype = str(entry["dtype"])
                if dtype in TORCH_TYPES:
                    if end - begin != math.prod(shape) * TORCH_TYPES[dtype].itemsize:
                        raise ValueError
                out.append(Stored(name, path, dtype, shape, begin, end))
        if max((t.end for t in out), default=0) > path.stat().st_size:
            raise ValueError
    except OSError as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else RuntimeError
        raise kind(
            f"convert: expected weights in '{path}', got {error.strerror}; download the "
            "checkpoint again"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"convert: expected a whole safetensors file, got '{path}' with a damaged header; "
            "download the checkpoint again"
        ) from None
    return out


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a checkpoint, by its index or the single one."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"convert: expected a weight_map in '{index}', got none; download the checkpoint "
                "again"
            ) from None
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError(
                f"convert: expected plain file names in '{index}', got others; download the "
                "checkpoint again"
            )
        return [folder / name for name in sorted(names)]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    raise FileNotFoundError(
        f"convert: expected model.safetensors or its index in '{folder}', found neither; save the "
        "model with save_pretrained"
    )


def model_type(folder: Path) -> str:
    """`model_type` of a checkpoint's config.json, of its text part where it has several."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config") or config
        return str(text.get("model_type") or config.get("model_type") or "")
    except (OSError, ValueError, AttributeError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(
            f"convert: expected a Hugging Face checkpoint, got '{folder}' without a readable "
            "config.json; pass its folder"
        ) from None


def quantiser(folder: Path) -> str:
    """The method by which a checkpoint is quantised, as its config.json says; empty for none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config") or {}
        settings = config.get("quantization_config") or text.get("quantization_config")
        if not settings:
            return ""
        return str(settings.get("quant_method") or settings.get("quant_algo") or "a quantiser")
    except (OSError, ValueError, AttributeError):
        return ""


def refuse_quantised(method: str, where: object) -> ValueError:
    """The one message for weights that are no plain numbers."""
    return ValueError(
        f"convert: expected float weights, got '{where}' quantised by {method}; convert the checkpoint "
        "that was not quantised, and quantise what comes out"
    )


def down_projections(folder: Path, widths: list[int], pattern: str = "") -> list[DownProjection]:
    """Down projections of all layers, in order, checked against the circuit's neurons per layer."""
    try:
        return _down_projections(folder, widths, pattern)
    except ValueError:
        if method := quantiser(folder):  # its names, shapes and types are the quantiser's own
            raise refuse_quantised(method, folder) from None
        raise


def _down_projections(folder: Path, widths: list[int], pattern: str) -> list[DownProjection]:
    kind = model_type(folder)
    chains: dict[str, dict[int, Stored]] = {}
    for file in weight_files(folder):
        for tensor in read_header(file):
            module = tensor.name.removesuffix(".weight")
            if module == tensor.name or len(tensor.shape) != 2:
                continue
            numbers = list(re.finditer(r"(?<=\.)\d+(?=\.)", module))
            if numbers and re.search(pattern or DOWN_PROJECTION, module):
                number = numbers[-1]
                stem = module[: number.start()] + "*" + module[number.end() :]
                chains.setdefault(stem, {})[int(number.group())] = tensor
    if not chains:
        raise ValueError(
            f"convert: expected down projections such as 'mlp.down_proj.weight' in '{folder}', "
            "found none (a mixture of experts, or unusual names); pass pattern="
        )
    wanted = {layer: width for layer, width in enumerate(widths) if width}
    for chain in chains.values():
        if chain.keys() == wanted.keys() and all(wanted[i] in t.shape for i, t in chain.items()):
            break
    else:
        stem, chain = max(chains.items(), key=lambda item: len(item[1]))
        sizes = sorted({"x".join(map(str, t.shape)) for t in chain.values()})
        raise ValueError(
            f"convert: expected {len(wanted)} down projections of "
            f"{' or '.join(map(str, sorted(set(wanted.values()))))} neurons for this circuit, "
            f"got {len(chain)} of {', '.join(sizes)} at '{stem}'; use the model that it was found "
            "on"
        )
    out = []
    for layer, tensor in sorted(chain.items()):
        if tensor.dtype not in TORCH_TYPES:
            raise ValueError(
                f"convert: expected float weights, got {tensor.dtype} in '{tensor.name}'; convert "
                "the checkpoint that was not quantised"
            )
        rows, columns = tensor.shape
        transposed = columns != widths[layer] or (rows == columns and kind in _TRANSPOSED_TYPES)
        out.append(DownProjection(layer, tensor, transposed))
    return out
