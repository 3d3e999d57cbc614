"""TorchScript: the step traced; with torchscript_host.cpp the only place that knows this format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import first_line
from .readout import Readout
from .step import CausalStep, quiet_tracing, traceable_attention
from .windows import Masks

ARCHIVE = "model.pt"


def trace(
    hf_model: Any, masks: Masks, example: tuple[Tensor, ...], readout: Readout | None = None
) -> Any:
    """A step of the model as a graph, traced on inputs of a `CausalStep`.

    The gains of its norms go along as buffers, for rankings by contribution.
    """
    step = CausalStep(hf_model, masks).eval()
    if readout is not None:
        _, gain, centred = readout.parts()
        posts = readout.post_gains()
        step.register_buffer("cna_final_gain", gain)
        step.register_buffer("cna_final_centred", gain[: int(centred)])
        step.register_buffer("cna_post_gains", gain[:0] if posts is None else posts)
    with traceable_attention(hf_model), torch.no_grad(), quiet_tracing():
        return torch.jit.trace(step, example, check_trace=False)


def save(traced: Any, path: Path) -> None:
    """Writes the archive; RuntimeError if there is no room for it."""
    try:
        with quiet_tracing():
            traced.save(str(path))
    except RuntimeError as error:
        raise RuntimeError(
            f"export: expected to write the archive in '{path.parent}', got "
            f"'{first_line(error)}'; free some space or choose another folder"
        ) from None
