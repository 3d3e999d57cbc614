"""Whether an export's step, its archive and the runner give the plain module's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.errors import first_line
from . import windows
from .hf_model import buffers_like, key_value_layers
from .layouts import Layouts, choose_masks, layouts_of, settle, steps_agree, with_mlps
from .plain import Plain, close
from .step import CausalStep
from .windows import Masks

LIVE = "run it as it is: cna.live(hf_model, tokenizer)"


def exportable_step(hf_model: Any, plain: Plain) -> tuple[list[Any], Masks, Layouts]:
    """The layers of the model's cache, its way of masking, and the layouts in which its step is exact.

    Raises:
        ValueError: it keeps other state than keys and values, or makes masks of a kind of its own.
    """
    name = type(hf_model).__name__
    if unknown := windows.unknown_kinds(hf_model):
        raise ValueError(
            f"export: expected layers of full or sliding attention, got {unknown} in {name}; {LIVE}"
        )
    layers = key_value_layers(hf_model, torch.tensor([plain.prompts[-1]], device=plain.device))
    if not layers:
        raise ValueError(
            f"export: expected keys and values in every layer, got other state in {name}; {LIVE}"
        )
    masks, found = choose_masks(
        hf_model, lambda m: CausalStep(hf_model, m), plain, buffers_like(layers)
    )
    if masks is None or not isinstance(found, Layouts):
        raise ValueError(
            f"export: expected a model that takes a mask and a cache from its caller, got {name}, whose "
            f"cached steps are not its plain passes ({found}); {LIVE}"
        )
    return layers, masks, found


def guarded(compiled: Any) -> Callable[..., Any]:
    """A traced or compiled step whose own errors are one line."""

    def run(*inputs: Tensor) -> Any:
        try:
            return compiled(*inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # TorchScript's has the cause in its last line
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ValueError(
                f"export: expected an archive that runs on other shapes than its example's, got: "
                f"{lines[-1] if lines else type(error).__name__}; {LIVE}"
            ) from None

    return run


def archive_layouts(compiled: Any, layers: list[Any], plain: Plain, at_most: Layouts) -> Layouts:
    """In which layouts the traced or compiled step gives the plain logits.

    Raises:
        ValueError: not even for one prompt.
    """
    found = layouts_of(compiled, plain, buffers_like(layers), at_most)
    if found is None:
        raise ValueError(
            f"export: expected an archive with the numbers of the plain module, got others; {LIVE}"
        )
    rows = [0, 2, 3] if found.padding else [0]
    room = steps_agree(compiled, plain, rows, buffers_like(layers), room=5)
    return replace(found, room=room)


def settle_export(
    folder: Path, manifest: dict[str, Any], plain: Plain, found: Layouts, device: str
) -> None:
    """Writes the manifest, with what the C++ runner gives as plain passes do when it opens the folder.

    Raises:
        ValueError: it does not run the model, or its numbers are others.
    """

    def write() -> None:
        text = json.dumps(manifest, indent=2, default=str) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")

    def make(layouts: Layouts) -> _core.Model:
        manifest["layouts"] = asdict(layouts)
        write()
        return _core.Model.load(folder, "", device, verify=False)

    try:
        core = settle(make, plain, found)
        manifest["residual_sites"] = core is not None and _same_residual(core, plain)
        write()
    except RuntimeError as error:
        raise ValueError(
            f"export: expected an archive that runs, got: {first_line(error)}; {LIVE}"
        ) from None
    if core is None:
        raise ValueError(
            f"export: expected recordings of the archive that are the plain module's, got others; {LIVE}"
        )


def _same_residual(core: _core.Model, plain: Plain) -> bool:
    """Whether the stream behind each layer is what leaves the module's blocks.

    A block may scale its output, or add to it once more behind the MLP, where no tap is.
    """
    if not core.has_residual_sites or not plain.residual:
        return False
    expected = torch.stack(plain.residual)
    if not bool(expected.isfinite().all()):  # nothing to compare, see runs_agree
        return True
    got = with_mlps(core, core.record(plain.prompts, "residual", share_prefix=False))
    return close(got, expected, plain.limit)


def require_equal(
    hf_model: Any,
    masks: Masks,
    compiled: Any,
    inputs: Callable[..., tuple[Tensor, ...]],
    what: str,
) -> None:
    """Shapes that the archive was not made on must give the numbers of the eager step.

    One of them lies beyond the sliding window.
    """
    step = CausalStep(hf_model, masks)
    shapes = [(1, 7, 2, 3, 2), (3, 1, 4, 3, 1), (2, 6, 0, 0, 1)]
    if window := max((w or 0 for w in masks.values()), default=0):
        if window < 2**15:
            shapes.append((1, 3, window + 2, 0, 1))
    for rows, new, past, room, positions in shapes:
        about = (rows, new, past, room, positions)
        with torch.no_grad():
            expected = step(*inputs(*about)).float().nan_to_num()
            got = compiled(*inputs(*about)).float().nan_to_num()
        # Weights are not judged here, hence nan_to_num.
        worst = float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not worst <= (1e-4 if hf_model.dtype == torch.float32 else 0.05):
            raise RuntimeError(
                f"export: expected the {what} model to equal the eager one, got a relative difference "
                f"of {worst:.2g} in the logits; use another format, or cna.live"
            )
