"""Export: a Hugging Face causal language model becomes a folder that C++ can run.

    folder/model.pt       TorchScript of one step (torchscript.py and torchscript_host.cpp), or
    folder/model.pt2      the step compiled ahead of time (aoti.py and aoti_host.cpp), and
    folder/gains.f32      beside it the gains of its norms, for rankings by contribution
    folder/manifest.json  what the archive expects, and where the weights came from
    folder/tokenizer ...  the tokenizer's own files

The step is an ordinary module, `CausalStep`: it takes token ids, a mask, positions, the places where
logits are wanted, those where keys and values go, and a key and a value buffer per layer; it writes the
new keys and values there and returns logits. Nothing in it is particular to one model family.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _core
from ..base.errors import first_line
from ..base.files import file_sha256, new_folder
from ..base.versions import versions
from . import aoti, torchscript
from .capabilities import known_of
from .devices import cuda_capability
from .export_check import (
    LIVE,
    archive_layouts,
    exportable_step,
    guarded,
    require_equal,
    settle_export,
)
from .generation_settings import generation_settings
from .hf_model import check_decoder, eos_ids, max_positions, require_known_experts
from .plain import evaluating
from .readout import readout_of
from .sites import layer_experts, layer_widths, running_sites, sites_of
from .source import template_sha256
from .step import quiet_transformers
from .traced_experts import require_traceable, traceable_experts
from .weights import weights_hash
from .windows import Masks

FORMAT_VERSION = 2  # of the step: 2 takes the places of keys and values, see docs/export.md
CONTENTS = 3  # what an export holds beside: 3 has the gains of the norms in both formats
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
    inputs = (ids, mask, places, last, torch.arange(past, past + new))
    return (*(t.to(device) for t in inputs), *buffers)


@dataclasses.dataclass(frozen=True)
class _Step:
    """What is exported: the module, its way of masking, its cache and its down projections."""

    hf_model: Any
    masks: Masks
    shapes: list[list[int]]
    downs: list[tuple[str, nn.Module]]

    def inputs(self, *args: int, **sizes: int) -> tuple[Tensor, ...]:
        model = self.hf_model
        return example_inputs(self.shapes, model.dtype, model.device, *args, **sizes)

    def require_equal(self, compiled: Any, what: str) -> None:
        require_equal(self.hf_model, self.masks, compiled, self.inputs, what)


def _grid(widths: list[int]) -> dict[str, Any]:
    """What the manifest says of the layers; each one's width only where they differ."""
    about: dict[str, Any] = {"n_layers": len(widths), "width": max(widths)}
    return about if len(set(widths)) == 1 else about | {"widths": widths}


def _write_torchscript(step: _Step, folder: Path, pattern: str) -> tuple[dict[str, Any], Any]:
    archive = folder / torchscript.ARCHIVE
    readout = readout_of(step.hf_model, step.downs)
    example = step.inputs(rows=2, new=5, past=3)
    with traceable_experts(step.hf_model, step.downs):
        traced = torchscript.trace(step.hf_model, step.masks, example, readout)
    step.require_equal(guarded(traced), "traced")
    torchscript.save(traced, archive)
    try:
        sites = _core.inspect_archive(archive, pattern)
    except ValueError as error:
        raise ValueError(
            f"export: expected down projections that are linear layers in the graph, got: "
            f"{first_line(error)}; {LIVE}"
        ) from None
    about = {"hidden_size": sites["hidden_size"], **_grid(sites["widths"])}
    experts = layer_experts(step.downs)
    if any(count for count, _ in experts):
        about["experts"] = experts
    unembedding = "" if readout is None else f"model.{readout.head_name}.weight"
    return about | {"archive": archive.name, "unembedding": unembedding}, traced


def _write_aoti(step: _Step, folder: Path, pattern: str) -> tuple[dict[str, Any], Any]:
    hf_model = step.hf_model
    archive = folder / aoti.ARCHIVE
    example = step.inputs(rows=2, new=5, past=3)
    compiled = aoti.compile_package(hf_model, step.masks, step.downs, example, archive)
    step.require_equal(guarded(compiled), "compiled")
    about = {
        "archive": archive.name,
        **_grid(layer_widths(step.downs, "export")),
        "hidden_size": int(hf_model.config.get_text_config().hidden_size),
        "neuron_sites": sites_of(step.downs),
        "device": hf_model.device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda_capability": cuda_capability(hf_model.device),
    }
    readout = readout_of(hf_model, step.downs)
    if readout is not None:
        weight: Any = readout.head
        name = aoti.weight_names(compiled, readout.head_name, weight.weight, hf_model)
        if name:
            about |= {"unembedding": name, "gains": aoti.write_gains(folder, readout)}
    return about, compiled


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
        "generation": generation_settings(hf_model),
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
            model is on and this kind of processor (minutes, and needs a C++ compiler). Of a mixture of
            experts, which is "torchscript" only, every expert runs on every token.
        model_id: name for provenance; the model's own by default.
        tap_pattern: regular expression for the down projection's module path; "" knows the usual ones.
        revision: revision for provenance; a hash of the weights by default.
    Returns:
        The folder.
    Raises:
        ValueError: an unknown format; experts whose routing is not traced, encoder-decoder, or another
            model that cannot be exported, found by comparing it with plain passes before and after.
        RuntimeError: the folder cannot be written, the model does not compile, or its numbers changed.
    """
    require_format("export", format)
    path = Path(path).expanduser()
    try:
        return _export(hf_model, tokenizer, path, format, model_id, tap_pattern, revision)
    except ValueError as error:
        raise ValueError(f"{error}{known_of(hf_model, 'export')}") from error.__cause__


def _export(
    hf_model: Any,
    tokenizer: Any,
    path: Path,
    format: str,
    model_id: str | None,
    tap_pattern: str,
    revision: str | None,
) -> Path:
    check_decoder(hf_model, "export")
    _require_free(path)
    with new_folder(path) as folder, evaluating(hf_model), quiet_transformers():
        downs, plain = running_sites(hf_model, tap_pattern, "export")
        require_known_experts(hf_model, downs, "export")
        require_traceable(hf_model, downs, format)
        layers, masks, found = exportable_step(hf_model, plain)
        shapes = [[k.keys.shape[1], k.keys.shape[3], k.values.shape[3]] for k in layers]
        write = _write_aoti if format == "aoti" else _write_torchscript
        about, compiled = write(_Step(hf_model, masks, shapes, downs), folder, tap_pattern)
        found = archive_layouts(guarded(compiled), layers, plain, found)
        del compiled
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        hf_model.config.to_json_file(folder / "config.json")
        manifest = {
            "format": "cna.model",
            "format_version": FORMAT_VERSION,
            "archive_format": format,
            "sha256": file_sha256(folder / about["archive"]),
            "tap_pattern": tap_pattern,
            **about,
            "cache": shapes,
            **_about(hf_model, tokenizer, model_id, revision),
            "made_with": versions(),
        }
        settle_export(folder, manifest, plain, found, str(hf_model.device))
    return path
