"""Live models by name or as modules: a checkpoint is loaded as for an export, then run as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..base.errors import first_line
from .auto import announce, choose_device, choose_dtype, is_auto
from .hugging_face import load_hf
from .live import live_module
from .messages import require_settings
from .model import Model
from .named import checkpoint, expanded, require_revision


def live(
    hf_model: Any,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = "auto",
    device: str | torch.device | None = "auto",
    device_map: Any = None,
    quantization_config: Any = None,
    model_id: str | None = None,
    pattern: str = "",
    cache: bool = True,
    weighted: bool = False,
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Model:
    """A `Model` over a Hugging Face module in this process, nothing exported.

    A tensor-parallel model (one process per shard) is called in all its processes with the same
    arguments; each gets the whole answer.

    Args:
        hf_model: "smollm2", a Hugging Face id or a local Hugging Face folder; or a decoder-only causal
            language model, which stays yours, and sees no change between calls (in training it runs
            without dropout, and trains on). It may be spread or offloaded by `device_map`, quantised,
            or tensor-parallel.
        tokenizer: its tokenizer, or None: of a name its own, of a module none.
        revision, dtype, device: of a name, as in `load`; float32 on a CPU and the checkpoint's own
            dtype on a GPU by default.
        device_map, quantization_config: of a name, as `from_pretrained` takes them.
        pattern: regular expression for the down projection's module name.
        cache: keep keys and values between steps, where that is exact (compared with plain passes
            now, see `layouts`). Else, or with False, prompts run one at a time and whole at each
            step: slow, but right for every model, and past the original length of "longrope" models.
        weighted: of a mixture of experts: neurons times their routing weight, instead of before it.
        system, template_kwargs: of the chat template, see `load`.
    Raises:
        ValueError: bad arguments, or those of a name with a module; encoder-decoder models, no down
            projection, two in one block, experts or split weights of a kind that is not known.
        FileNotFoundError: nothing is there, or a folder without a model.
        RuntimeError: no model of that name can be had or placed; a down projection that gets other
            activations than its weights say.
    """
    if isinstance(hf_model, (str, os.PathLike)):
        hf_model, tokenizer, name = _opened(
            hf_model, tokenizer, revision, dtype, device, device_map, quantization_config
        )
        model_id = model_id or name
    else:
        left_open = {"dtype": is_auto(dtype), "device": is_auto(device)}
        given = {"revision": revision, "device_map": device_map}
        given["quantization_config"] = quantization_config
        left_open |= {name: value is None for name, value in given.items()}
        if asked := [name for name, is_open in left_open.items() if not is_open]:
            raise ValueError(
                f"live: expected {asked[0]}= with a name only, got it with a module; load the module "
                "as you want it, or pass its name"
            )
    require_settings("live", tokenizer, system, template_kwargs)
    return live_module(
        hf_model,
        tokenizer,
        model_id=model_id,
        pattern=pattern,
        cache=cache,
        weighted=weighted,
        system=system,
        template_kwargs=template_kwargs,
    )


def _opened(
    name: str | os.PathLike[str],
    tokenizer: Any,
    revision: str | None,
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    device_map: Any,
    quantization_config: Any,
) -> tuple[Any, Any, str | None]:
    """The module behind a name where it should run, its tokenizer, and the name for provenance."""
    if device_map is not None and not is_auto(device):
        raise ValueError("live: expected device= or device_map=, got both; leave out one of them")
    where = choose_device("live", device)
    path = expanded("live", name)
    require_revision("live", name, path, revision)
    if path.is_file() or (path / "manifest.json").exists():
        raise ValueError(
            f"live: expected a Hugging Face id or folder, got the export '{os.fspath(name)}'; open it "
            "with cna.load"
        )
    text = checkpoint("live", name, path)
    kind = choose_dtype(dtype, where, text, revision, function="live")
    options = {"device_map": device_map, "quantization_config": quantization_config}
    if quantization_config is not None and device_map is None and where != "cpu":
        options["device_map"] = {"": where}  # some quantised weights cannot move later
    options = {key: value for key, value in options.items() if value is not None}
    if device_map is None and (is_auto(device) or is_auto(dtype)):
        announce(text, where, kind)
    hf_model, own = load_hf(text, kind, revision, function="live", tokenizer=tokenizer, **options)
    if "device_map" not in options:
        hf_model = _placed(hf_model, where)
    return hf_model, own, Path(text).resolve().name if path.is_dir() and text != "smollm2" else None


def _placed(hf_model: Any, device: str) -> Any:
    if next(hf_model.parameters()).device.type == torch.device(device).type == "cpu":
        return hf_model
    try:
        return hf_model.to(device)
    except (RuntimeError, ValueError) as error:  # no such GPU, no room, or weights that cannot move
        raise RuntimeError(
            f"live: expected a model that can move to {device}, got: {first_line(error)}; pass "
            "device_map=, or another device"
        ) from None
