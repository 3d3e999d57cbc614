"""Devices: whether a machine has them, which generation a GPU is, and LibTorch's names of dtypes."""

from __future__ import annotations

import torch

_DTYPES = {"Float": "float32", "BFloat16": "bfloat16", "Half": "float16", "Double": "float64"}


def dtype_named(name: str) -> torch.dtype:
    """The dtype that LibTorch calls `name`, such as "BFloat16"."""
    return getattr(torch, _DTYPES[name])


def require_device(function: str, device: str | torch.device) -> None:
    """Raises ValueError for a name that is no device, and for CUDA on a machine without it."""
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise ValueError(
            f"{function}: expected a device such as 'cpu', 'cuda' or 'cuda:1', got {device!r}; name one"
        ) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{function}: expected a CUDA device, got a machine without one; use device='cpu'"
        )


def cuda_capability(device: str | torch.device) -> str | None:
    """The generation of a GPU, such as "9.0"; None for other devices."""
    if torch.device(device).type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(torch.device(device))
    return f"{major}.{minor}"
