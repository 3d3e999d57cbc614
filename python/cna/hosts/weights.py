"""What is known of a model by its weights alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


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


def warn_of_other_weights(provenance: Mapping[str, Any], weights: str, dtype: torch.dtype) -> None:
    """Warns where a circuit was found on other weights of the same shape, such as the base model.

    Hashes of one kind and one dtype only can tell: a commit is no hash of the weights.
    """
    found, kind = str(provenance.get("weights_hash") or ""), str(provenance.get("dtype") or "")
    comparable = len(found) == len(weights) and (len(found) == 40 or kind == str(dtype)[6:])
    if found and comparable and found != weights:
        warnings.warn(
            f"steer: the circuit was found on other weights ({provenance.get('model_id')}, "
            f"{found[:12]}) than this model's ({weights[:12]}); discover it on this model",
            stacklevel=5,
        )
