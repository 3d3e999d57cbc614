"""What is known of a model by its weights alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
