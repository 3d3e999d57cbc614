"""AOTInductor: the step compiled ahead of time, with the taps in the compiled graph.

This file and aoti_host.cpp know the format: a .pt2 package of machine code and weights, for one device,
one processor family and one version of torch. Forward hooks put `cna::tap_` on every site while the step
is exported; the operator edits its tensor in place and does nothing where nobody listens, so the package
gives the model's own logits when it is run by itself.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.errors import first_line
from ..base.files import file_sha256
from .readout import Readout
from .sites import layer_above, layer_numbers
from .step import CausalStep
from .windows import Masks

ARCHIVE = "model.pt2"
GAINS = "gains.f32"
SITES = ("neuron", "mlp_output", "residual")  # as cna::Site counts them


@contextlib.contextmanager
def tapped(hf_model: Any, downs: list[tuple[str, nn.Module]]) -> Iterator[None]:
    """Puts `cna::tap_` on every site of the model; taken off on exit."""

    numbers = layer_numbers(downs, "export")

    def tap(x: Tensor, site: str, layer: int) -> None:
        if x.dim() != 3:
            raise ValueError(
                f"{site} activations of {x.dim()} dimensions instead of rows, tokens and features"
            )
        torch.ops.cna.tap_(x, SITES.index(site) * (numbers[-1] + 1) + layer)

    def before(layer: int) -> Any:
        return lambda _, args: tap(args[0], "neuron", layer)

    def after(site: str, layer: int) -> Any:
        return lambda _, __, out: tap(out if isinstance(out, Tensor) else out[0], site, layer)

    hooks = []
    for layer, (name, down) in zip(numbers, downs, strict=True):
        block = layer_above(hf_model, name)
        hooks.append(down.register_forward_pre_hook(before(layer)))
        hooks.append(down.register_forward_hook(after("mlp_output", layer)))
        hooks.append(block.register_forward_hook(after("residual", layer)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _shapes(n_buffers: int) -> dict[str, Any]:
    """Which dimensions may have any size."""
    free = torch.export.Dim.DYNAMIC
    return {
        "input_ids": {0: free, 1: free},
        "attention_mask": {0: free, 1: free},
        "position_ids": {0: free, 1: free},
        "logit_positions": {0: free},
        "write_places": {0: free},
        "buffers": tuple({0: free, 2: free} for _ in range(n_buffers)),
    }


def _processor() -> dict[str, Any]:
    """Compiler settings for every processor of this one's capability, and no more than that.

    Else code for AVX512 would also use what only newer processors of that capability have.
    """
    from torch._inductor import config

    settings: dict[str, Any] = {"cpp_cache_precompile_headers": False}
    levels = {"AVX2": ("x86-64-v3", 256), "AVX512": ("x86-64-v4", 512)}
    level = levels.get(torch.backends.cpu.get_cpu_capability())
    if level is not None and hasattr(config.cpp, "march"):
        settings |= {"cpp.march": level[0], "cpp.simdlen": level[1]}
    return settings


def weight_names(compiled: Any, head: str, head_weight: Tensor, hf_model: Any) -> str:
    """The package's name of the unembedding; "" where it is not among its constants.

    A weight that two modules share is there under one of their names.
    """
    names = set(compiled.get_constant_fqns())
    shared = [
        f"model.{name}"
        for name, parameter in hf_model.named_parameters(remove_duplicate=False)
        if parameter is head_weight
    ]
    return next((name for name in [f"model.{head}.weight", *shared] if name in names), "")


def write_gains(folder: Path, readout: Readout) -> dict[str, Any]:
    """The gains of the norms beside the package, raw float32 [1 or 1 + layers, hidden].

    Returns what the manifest says of them.
    """
    _, gain, centred = readout.parts()
    posts = readout.post_gains()
    rows = [gain, *(() if posts is None else posts)]
    file = folder / GAINS
    file.write_bytes(torch.stack([r.float().cpu() for r in rows]).numpy().tobytes())
    layer, first = next(iter(readout.downs.items()))
    down: Any = first
    transposed = tuple(down.weight.shape) != tuple(readout.write(layer)[0].shape) or hasattr(
        down, "nx"
    )
    return {
        "file": GAINS,
        "sha256": file_sha256(file),
        "centred": centred,
        "transposed": transposed,
    }


def compile_package(
    hf_model: Any,
    masks: Masks,
    downs: list[tuple[str, nn.Module]],
    example: tuple[Tensor, ...],
    path: Path,
) -> Any:
    """Compiles a step of the model to `path`; returns it as a callable like `CausalStep`.

    Args:
        masks: the model's way of masking, see `windows`.
        downs: (name, module) of each layer's down projection.
        example: inputs of a `CausalStep` with at least 2 rows, tokens and logit positions.
    Raises:
        RuntimeError: torch.export or the C++ compiler refuses the model.
    """
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    step = CausalStep(hf_model, masks).eval()
    try:
        with torch.no_grad(), tapped(hf_model, downs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch, some of them per model
            program = torch.export.export(
                step, example, dynamic_shapes=_shapes(len(example) - 5), strict=False
            )
            # A cache of its own: torch's would keep a second copy of the weights for ever.
            with (
                tempfile.TemporaryDirectory(prefix="cna-aoti-") as own,
                fresh_cache(dir=own),
                config.patch(_processor()),
            ):
                torch._inductor.aoti_compile_and_package(program, package_path=str(path))
            return torch._inductor.aoti_load_package(str(path))
    except Exception as error:  # torch raises classes of many modules here
        raise RuntimeError(
            f"export: expected a model that torch.export and AOTInductor compile, got: "
            f"{first_line(error)}; use format='torchscript', or cna.live"
        ) from None
