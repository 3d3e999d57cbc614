"""What is known of a model by its weights alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core


def weights_hash(hf_model: Any, whole: Callable[[str, Tensor], Tensor] | None = None) -> str:
    """SHA-256 over the model's parameters, by name; independent of file layout.

    `whole` turns what the model holds of a parameter into all of it, where that is not the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(hf_model.state_dict().items()):
        tensor = whole(name, tensor) if whole else tensor
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def weights_mark(hf_model: Any) -> str:
    """Tells apart models of one commit: the quantiser's settings, and some numbers of each tensor.

    Cheap where hashing a large model is not; an edited or merged weight shows. A tensor-parallel model
    has no mark: its parts would differ.
    """
    config = getattr(getattr(hf_model, "hf_quantizer", None), "quantization_config", None)
    digest = hashlib.sha256(repr(config.to_dict() if config else None).encode())
    for name, tensor in sorted(hf_model.state_dict().items()):
        # A quantiser's own kind of tensor has no plain numbers, a weight on the meta device none.
        if type(tensor) is not Tensor or tensor.device.type == "meta":
            continue
        flat = tensor.reshape(-1)
        some = flat[:: max(1, flat.numel() // 64)].cpu().contiguous()
        digest.update(name.encode() + some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_mark(path: Path | None) -> list[int]:
    """Bytes and time of a bare archive, which has no hash; empty for what is no file."""
    if path is None or not path.is_file():
        return []
    return [path.stat().st_size, path.stat().st_mtime_ns]


def require_own_circuit(
    circuit: _core.Circuit, widths: list[int], weights: str, dtype: torch.dtype
) -> None:
    """Raises ValueError for a circuit of another shape, warns of one found on other weights.

    The base model has the same shape as the tuned one. Hashes of one kind and one dtype only can tell:
    a commit is no hash of the weights.
    """
    if circuit.widths != widths:
        uneven = ", with other widths" if circuit.shape == (len(widths), max(widths)) else ""
        raise ValueError(
            f"steer: expected a circuit of {len(widths)} layers x {max(widths)} neurons, got one of "
            f"{circuit.shape[0]} x {circuit.shape[1]}{uneven}; discover it on this model"
        )
    said = circuit.provenance
    found, kind = str(said.get("weights_hash") or ""), str(said.get("dtype") or "")
    comparable = len(found) == len(weights) and (len(found) == 40 or kind == str(dtype)[6:])
    if found and comparable and found != weights:
        warnings.warn(
            f"steer: the circuit was found on other weights ({said.get('model_id')}, {found[:12]}) "
            f"than this model's ({weights[:12]}); discover it on this model",
            stacklevel=7,
        )
