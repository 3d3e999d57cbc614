"""A circuit folded into a Hugging Face checkpoint: an ordinary model that any engine serves.

    W[:, j] <- m * W[:, j]     W: down_proj of one layer [hidden, width]; j: its neurons

Files are copied as they are, one after the other, and then only the bytes of these columns are
rewritten, a few megabytes at a time. Everything else keeps its bytes.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..base.errors import first_line
from ..hosts.hugging_face import plain_weights
from .expert_tensors import expert_projections
from .files import (
    MARK,
    TORCH_TYPES,
    DownProjection,
    down_projections,
    output_folder,
    refuse_quantised,
    weight_files,
)

_CHUNK = 8 << 20
# Weights in other formats, which are not steered. A .bin may also be a tokenizer's.
_WEIGHTS = (
    *("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "*.onnx"),
    *("*.onnx_data", "*.ot", "*.tflite", "*.npz", "pytorch_model*.bin", "model*.bin"),
    *("consolidated*.bin", "*.bin.index.json", "*.h5.index.json", "*.msgpack.index.json"),
)


@contextlib.contextmanager
def checkpoint(source: Any, near: Path) -> Iterator[tuple[Path, str]]:
    """Folder and name of the checkpoint behind `source`.

    Args:
        source: a folder, a Hugging Face id, "smollm2" or a transformers model; the last two are
            written to a temporary folder beside `near` first.
    """
    if hasattr(source, "save_pretrained"):
        name = str(getattr(source.config, "name_or_path", "") or type(source).__name__)
        with _saved([source], near) as folder:
            yield folder, name
        return
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "convert: expected a Hugging Face folder, id or model as source, got "
            f"{type(source).__name__}; pass one of these"
        )
    text = os.fspath(source)
    path = Path(text).expanduser()
    if text == "smollm2" and not path.exists():
        from ..hosts.hugging_face import load_hf

        with _saved(list(load_hf("smollm2")), near) as folder:
            yield folder, "SmolLM2-135M-Instruct"
    elif path.is_dir():
        yield path, str(path)
    elif not path.exists() and (text.startswith((".", "/", "~")) or text.endswith(".gguf")):
        raise FileNotFoundError(
            f"convert: expected a Hugging Face folder or id as source, found nothing at '{text}'; check "
            "the path"
        )
    elif path.exists():
        raise ValueError(
            f"convert: expected a Hugging Face folder or id as source, got '{text}'; GGUF files "
            "take format='gguf' or 'gguf-lora'"
        )
    else:
        yield _snapshot(text), text


@contextlib.contextmanager
def _saved(parts: list[Any], near: Path) -> Iterator[Path]:
    try:
        near.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{near.name}.source.", dir=near.parent))
    except OSError as error:
        raise RuntimeError(
            f"convert: expected to write to '{near.parent}', got {error.strerror}; choose another "
            "folder"
        ) from None
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            try:
                for part in parts:
                    _save(part, folder)
            except (OSError, SafetensorError) as error:
                raise RuntimeError(
                    f"convert: expected to write the model to '{folder}', got {error}; free some "
                    "space or choose another folder"
                ) from None
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(part: Any, folder: Path) -> None:
    """`save_pretrained` of a model, whose weights are written as the plain numbers that they are."""
    quantised = getattr(getattr(part, "hf_quantizer", None), "quantization_config", None)
    quantised = quantised or getattr(getattr(part, "config", None), "quantization_config", None)
    method = getattr(quantised, "quant_method", None)
    if isinstance(quantised, dict):
        method = quantised.get("quant_method")
    name = str(getattr(method, "value", method) or "")
    if not quantised:
        part.save_pretrained(folder)
    elif name == "gguf":  # read into plain tensors; saving would ask for a quantiser
        with plain_weights(part):
            part.save_pretrained(folder)
    else:
        try:
            part.save_pretrained(folder)
        except (OSError, SafetensorError):
            raise
        except Exception:  # whatever a quantiser says that cannot write its weights
            raise refuse_quantised(name or "a quantiser", type(part).__name__) from None


def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    others = [p for p in _WEIGHTS if p != "*.safetensors"]
    try:
        try:
            local = Path(snapshot_download(name, ignore_patterns=others, local_files_only=True))
            if all(file.exists() for file in weight_files(local)):
                return local
            raise OSError("only a part of it is in the cache")
        except (OSError, ValueError):
            return Path(snapshot_download(name, ignore_patterns=others))
    except Exception as error:  # its errors share no base class
        reason = first_line(error)
        raise RuntimeError(
            f"convert: expected a Hugging Face checkpoint '{name}', got: {reason}; check the "
            "name, the network, or pass a folder"
        ) from None


def scale_columns(file: Path, site: DownProjection, indices: list[int], multiplier: float) -> None:
    """Multiplies columns (rows of a transposed weight) of one tensor in place, in `file`."""
    stored = site.tensor
    dtype = TORCH_TYPES[stored.dtype]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows, columns = stored.shape
    row_bytes = columns * dtype.itemsize
    chosen = torch.tensor(indices)
    with file.open("r+b") as handle:
        if site.transposed:
            spans = [(j, 1) for j in indices]
        else:
            step = max(1, _CHUNK // row_bytes)
            spans = [(at, min(step, rows - at)) for at in range(0, rows, step)]
        for at, count in spans:
            handle.seek(stored.begin + at * row_bytes)
            data = bytearray(count * row_bytes)
            handle.readinto(data)
            block = torch.frombuffer(data, dtype=dtype).reshape(count, columns)
            if site.transposed:
                block.copy_((block.to(wide) * multiplier).to(dtype))
            else:
                block[:, chosen] = (block[:, chosen].to(wide) * multiplier).to(dtype)
            if not block.isfinite().all():
                raise ValueError(
                    f"convert: expected finite weights, got overflow of {stored.dtype} in "
                    f"'{stored.name}' at multiplier {multiplier:g}; choose a smaller one"
                )
            handle.seek(stored.begin + at * row_bytes)
            handle.write(data)


def write_folded(
    neurons: dict[int, list[int]],
    widths: list[int],
    source: Any,
    path: Path,
    multiplier: float,
    *,
    experts: Sequence[tuple[int, int]] = (),
    pattern: str = "",
    overwrite: bool = False,
    mark: str = "",
) -> list[str]:
    """Writes the checkpoint with the circuit folded in; see `cna.convert`.

    Everything beside the weights is copied, folders too. Returns the files that were left out:
    weights in other formats, which would not be steered.

    Args:
        neurons: neuron indices by layer.
        experts: (count, width) of each layer's experts; empty for a dense model.
        mark: JSON text that tells where the folder comes from, kept beside the weights.
    """
    with checkpoint(source, path) as (folder, _):
        if path.resolve() == folder.resolve():
            raise ValueError(
                f"convert: expected another folder than the source, got '{path}' for both; choose "
                "another"
            )
        sites = (
            expert_projections(folder, widths, experts)
            if experts
            else down_projections(folder, widths, pattern)
        )
        files = weight_files(folder)
        with output_folder(path, overwrite) as target:
            left_out = _copy_others(folder, target, {f.name for f in files})
            for file in files:
                copy = target / file.name
                shutil.copyfile(file, copy)
                for site in sites:
                    if site.tensor.file == file and (own := site.own(neurons)):
                        scale_columns(copy, site, own, multiplier)
            (target / MARK).write_text(mark, encoding="utf-8")
    return left_out


def _copy_others(folder: Path, target: Path, weights: set[str]) -> list[str]:
    """Copies what lies beside the weights; returns the names of weights in other formats."""
    left_out = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(d for d in folders if not d.startswith("."))  # .git, .cache
        place = Path(at).relative_to(folder)
        for name in sorted(names):
            if place == Path() and (name in weights or name == MARK):
                continue
            if any(fnmatch.fnmatch(name, pattern) for pattern in _WEIGHTS):
                left_out.append((place / name).as_posix())
                continue
            (target / place).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / place / name, target / place / name)
    return left_out
