"""The cache: a Hugging Face model is exported once and found again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from .. import _core
from . import hugging_face
from .devices import cuda_capability
from .export import FORMAT_VERSION, export
from .hugging_face import export_dtype, smollm2_source


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where exports are kept: `cache_dir`, else $CNA_CACHE, else ~/.cache/cna."""
    return Path(cache_dir or os.environ.get("CNA_CACHE") or Path.home() / ".cache" / "cna")


def export_cached(
    name: str,
    *,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    pattern: str = "",
    format: str = "torchscript",
    device: str | torch.device = "cpu",
) -> Path:
    """The exported folder of a model in the cache, made now if it is not there.

    `device` counts for format "aoti" only, which is compiled for it.
    """
    key: list[Any] = [name, str(export_dtype(dtype)), pattern, FORMAT_VERSION, _core.version]
    key.append(torch.__version__)
    if format == "aoti":
        key += [format, torch.device(device).type, torch.backends.cpu.get_cpu_capability()]
        key.append(cuda_capability(device))
    if name == "smollm2":
        key.append(_files_key(smollm2_source()[0]))
    elif Path(name).is_dir():
        key += [str(Path(name).resolve()), _files_key(Path(name))]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name if Path(name).is_dir() else name)
    folder = cache_folder(cache_dir) / f"{slug}-{str(export_dtype(dtype))[6:]}-{digest}"
    if (folder / "manifest.json").exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")  # free when a process ends or dies
        lock.acquire()
    except OSError as error:
        raise RuntimeError(
            f"load: expected to write to '{folder.parent}', got {error.strerror or error}; set "
            "CNA_CACHE or pass cache_dir="
        ) from None
    try:
        if not (folder / "manifest.json").exists():
            _export_to(folder, name, dtype, pattern, format, device)
    finally:
        lock.release()
    return folder


def _export_to(
    folder: Path,
    name: str,
    dtype: torch.dtype | str | None,
    pattern: str,
    format: str,
    device: str | torch.device,
) -> None:

    slow = ", compiling takes minutes" if format == "aoti" else ""
    print(f"cna: exporting {name} (once, kept in the cache{slow})", file=sys.stderr)
    model, tokenizer = hugging_face.load_hf(name, dtype)
    if format == "aoti":
        model = model.to(device)
    model_id = None
    if name != "smollm2":
        model_id = name if not Path(name).is_dir() else Path(name).resolve().name
    revision = getattr(model.config, "_commit_hash", None)
    export(
        model,
        tokenizer,
        folder,
        format=format,
        model_id=model_id,
        tap_pattern=pattern,
        revision=revision,
    )


def _files_key(folder: Path) -> list[tuple[str, int, int]]:
    stats = ((f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file())
    return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]
