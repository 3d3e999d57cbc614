"""Auto: the device and the dtype of a model where the caller leaves the choice to the machine."""

from __future__ import annotations

from typing import Any

import torch

from ..base.log import note
from .devices import require_device
from .hugging_face import export_dtype, own_dtype

AUTO = "auto"


def is_auto(choice: Any) -> bool:
    """Whether a device or a dtype is left open: "auto" or None."""
    return choice is None or (isinstance(choice, str) and choice == AUTO)


def best_device() -> str:
    """The GPU that torch sees, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(function: str, device: str | torch.device | None) -> str:
    """The device that is meant: for "auto" the GPU that torch sees, else the CPU.

    Raises ValueError for a name that is no device, and for CUDA on a machine without it.
    """
    if is_auto(device):
        return best_device()
    require_device(function, device or "cpu")
    return str(device)


def choose_dtype(
    dtype: torch.dtype | str | None,
    device: str,
    name: str,
    revision: str | None = None,
    function: str = "load",
) -> torch.dtype:
    """The dtype that is meant: for "auto" float32 on a CPU, else the checkpoint's own.

    Raises ValueError for another than float32, bfloat16 and float16.
    """
    if not is_auto(dtype):
        return export_dtype(dtype, function)
    return torch.float32 if torch.device(device).type == "cpu" else own_dtype(name, revision)


def announce(name: str, device: str, dtype: torch.dtype | None = None) -> None:
    """Says on stderr what was chosen where that is not the CPU; `dtype` None is the export's own."""
    if torch.device(device).type != "cpu":
        of = "" if dtype is None else f" in {str(dtype).removeprefix('torch.')}"
        note(f"auto is {device}{of} for {name}")
