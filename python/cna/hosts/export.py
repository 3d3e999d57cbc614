"""Export: a Hugging Face causal language model becomes a folder that C++ can run.

    folder/model.pt       TorchScript of one step (torchscript.py and torchscript_host.cpp), or
    folder/model.pt2      the step compiled ahead of time (aoti.py and aoti_host.cpp)
    folder/manifest.json  what the archive expects, and where the weights came from
    folder/tokenizer ...  the tokenizer's own files

The step is an ordinary module, `CausalStep`: it takes token ids, a mask, positions, the places where
logits are wanted and a key and a value buffer per layer, writes the new keys and values into the last
places of the buffers, and returns logits. Nothing in it is particular to one model family.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.files import file_sha256, new_folder
from ..base.versions import versions
from . import aoti, torchscript
from .devices import cuda_capability
from .hf_model import cache_shapes, check_exportable, eos_ids, max_positions
from .sites import down_projections, layer_width
from .source import template_sha256
from .step import CausalStep, quiet_transformers
from .weights import weights_hash

FORMAT_VERSION = 1
FORMATS = ("torchscript", "aoti")


def example_inputs(
    shapes: list[list[int]],
    dtype: torch.dtype,
    device: Any,
    rows: int,
    new: int,
    past: int,
    room: int = 3,
    positions: int = 2,
) -> tuple[Tensor, ...]:
    """Inputs of a CausalStep; earlier keys and values are random, so that they matter.

    Buffers are views of larger ones, as in generation, with `room` for more tokens; logits are wanted
    at the last `positions` tokens.
    """
    generator = torch.Generator().manual_seed(rows * 10007 + new * 101 + past)
    ids = torch.randint(0, 16, (rows, new), generator=generator)
    mask = torch.ones(rows, past + new, dtype=torch.long)
    places = torch.arange(past, past + new).expand(rows, new).contiguous()
    buffers = []
    for heads, key, value in shapes:
        for dim in (key, value):
            noise = torch.randn(rows, heads, past + new + room, dim, generator=generator)
            buffers.append(noise.to(device, dtype)[:, :, : past + new])
    last = torch.arange(new - positions, new).clamp_min(0)
    return (*(t.to(device) for t in (ids, mask, places, last)), *buffers)


def _require_equal(hf_model: Any, compiled: Any, shapes: list[list[int]], what: str) -> None:
    """Shapes that the archive was not made on must give the numbers of the eager step."""
    step = CausalStep(hf_model).eval()
    for rows, new, past, room, positions in ((1, 7, 2, 3, 2), (3, 1, 4, 3, 1), (2, 6, 0, 0, 1)):
        about = (shapes, hf_model.dtype, hf_model.device, rows, new, past, room, positions)
        with torch.no_grad():
            expected = step(*example_inputs(*about)).float().nan_to_num()
            got = compiled(*example_inputs(*about)).float().nan_to_num()
        # Weights are not judged here, hence nan_to_num.
        worst = float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not worst <= (1e-4 if hf_model.dtype == torch.float32 else 0.05):
            raise RuntimeError(
                f"export: expected the {what} model to equal the eager one, got a relative difference "
                f"of {worst:.2g} in the logits; use another format, or cna.live"
            )


def _write_torchscript(hf_model: Any, shapes: list[list[int]], folder: Path, pattern: str) -> Any:
    example = example_inputs(shapes, hf_model.dtype, hf_model.device, rows=2, new=5, past=3)
    archive = folder / torchscript.ARCHIVE
    traced = torchscript.trace(hf_model, example)
    _require_equal(hf_model, traced, shapes, "traced")
    torchscript.save(traced, archive)
    sites = _core.inspect_archive(archive, pattern)
    return {k: sites[k] for k in ("n_layers", "width", "hidden_size")} | {"archive": archive.name}


def _write_aoti(hf_model: Any, shapes: list[list[int]], folder: Path, pattern: str) -> Any:
    downs = down_projections(hf_model, pattern, "export")
    example = example_inputs(shapes, hf_model.dtype, hf_model.device, rows=2, new=5, past=3)
    archive = folder / aoti.ARCHIVE
    compiled = aoti.compile_package(hf_model, downs, example, archive)
    _require_equal(hf_model, compiled, shapes, "compiled")
    return {
        "archive": archive.name,
        "n_layers": len(downs),
        "width": layer_width(downs, "export"),
        "hidden_size": int(hf_model.config.get_text_config().hidden_size),
        "neuron_sites": [name for name, _ in downs],
        "device": hf_model.device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda_capability": cuda_capability(hf_model.device),
    }


def require_format(function: str, format: str) -> None:
    """Raises ValueError for a format that there is not."""
    if format not in FORMATS:
        raise ValueError(
            f"{function}: expected format 'torchscript' or 'aoti', got {format!r}; choose one"
        )


def _require_free(path: Path) -> None:
    if path.exists() and not (path / "manifest.json").exists() and any(path.iterdir()):
        raise ValueError(
            f"export: expected an empty folder or an older export at '{path}', got other files; choose "
            "another folder"
        )


def _about(
    hf_model: Any, tokenizer: Any, model_id: str | None, revision: str | None
) -> dict[str, Any]:
    """What the manifest says of the model and its tokenizer, whatever the format."""
    config = hf_model.config
    return {
        "model_id": model_id or config.name_or_path or type(hf_model).__name__,
        "architecture": type(hf_model).__name__,
        "weights_hash": revision or weights_hash(hf_model),
        "dtype": str(hf_model.dtype).removeprefix("torch."),
        "vocab_size": int(hf_model.get_output_embeddings().weight.shape[0]),
        "max_positions": max_positions(config),
        "eos_token_ids": eos_ids(hf_model),
        "tokenizer": tokenizer is not None,
        "chat_template_sha256": template_sha256(tokenizer),
    }


def export(
    hf_model: Any,
    tokenizer: Any,
    path: str | os.PathLike[str],
    *,
    format: str = "torchscript",
    model_id: str | None = None,
    tap_pattern: str = "",
    revision: str | None = None,
) -> Path:
    """Exports a Hugging Face causal language model to a folder that cna and C++ can open.

    Args:
        hf_model: from `AutoModelForCausalLM.from_pretrained`; float32, bfloat16 or float16.
        tokenizer: its tokenizer, or None (prompts are then token ids).
        path: the folder to write; an older export there is replaced only when the new one is whole.
        format: "torchscript" runs anywhere; "aoti" is compiled by AOTInductor for the device that the
            model is on and this kind of processor (minutes, and needs a C++ compiler).
        model_id: name for provenance; the model's own by default.
        tap_pattern: regular expression for the down projection's module path; "" knows the usual ones.
        revision: revision for provenance; a hash of the weights by default.
    Returns:
        The folder.
    Raises:
        ValueError: an unknown format; mixture of experts, encoder-decoder, or another model that
            cannot be exported.
        RuntimeError: the folder cannot be written, the model does not compile, or its numbers changed.
    """
    require_format("export", format)
    check_exportable(hf_model)
    path = Path(path).expanduser()
    _require_free(path)
    was_training = hf_model.training
    with new_folder(path) as folder:
        hf_model.eval()
        try:
            with quiet_transformers():
                shapes = cache_shapes(hf_model)
                write = _write_aoti if format == "aoti" else _write_torchscript
                archive = write(hf_model, shapes, folder, tap_pattern)
        finally:
            hf_model.train(was_training)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        hf_model.config.to_json_file(folder / "config.json")
        manifest = {
            "format": "cna.model",
            "format_version": FORMAT_VERSION,
            "archive_format": format,
            "sha256": file_sha256(folder / archive["archive"]),
            "tap_pattern": tap_pattern,
            **archive,
            "cache": shapes,
            **_about(hf_model, tokenizer, model_id, revision),
            "made_with": versions(),
        }
        text = json.dumps(manifest, indent=2) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return path
