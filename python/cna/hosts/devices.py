"""Devices: whether a machine has them, and which generation a GPU is."""

from __future__ import annotations

import torch


def require_device(function: str, device: str | torch.device) -> None:
    """Raises ValueError for CUDA on a machine without it."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{function}: expected a CUDA device, got a machine without one; use device='cpu'"
        )


def cuda_capability(device: str | torch.device) -> str | None:
    """The generation of a GPU, such as "9.0"; None for other devices."""
    if torch.device(device).type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(torch.device(device))
    return f"{major}.{minor}"
