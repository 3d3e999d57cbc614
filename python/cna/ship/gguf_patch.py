"""A circuit patched into a quantised GGUF file, without quantising anything again.

In a gated MLP a = act(W_gate x) * (W_up x), so neuron j is linear in row j of `ffn_up`: scaling
that row by m scales the neuron by m, of an expert too. A quantised row is blocks of small integers
with a few half-precision scales, and its values are linear in these:

    Q4_0, Q5_0, Q8_0, Q3_K, Q6_K   w = d * (...)            Q4_1, Q5_1   w = d * q + min
    Q2_K, Q4_K, Q5_K               w = d * (...) - dmin * (...)

So the row's scales are multiplied by m and rounded to half precision (none for 0, 1, -1 and 2; else a
relative error up to 2^-11, or more for scales below 6e-5, where half precision has fewer digits); the
integers and the rest of the file keep their bytes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import output_file, require
from .gguf_file import gguf_path, open_gguf, stated_architecture
from .gguf_sites import Part, part_tensors, parts_of

# Bytes per block, and where its half-precision scales are.
BLOCKS: dict[str, tuple[int, tuple[int, ...]]] = {
    "Q4_0": (18, (0,)),
    "Q4_1": (20, (0, 2)),
    "Q5_0": (22, (0,)),
    "Q5_1": (24, (0, 2)),
    "Q8_0": (34, (0,)),
    "Q2_K": (84, (80, 82)),
    "Q3_K": (110, (108,)),
    "Q4_K": (144, (0, 2)),
    "Q5_K": (176, (0, 2)),
    "Q6_K": (210, (208,)),
    "IQ4_NL": (18, (0,)),
    "IQ4_XS": (136, (0,)),
}
FLOATS = ("F32", "F16", "BF16")


def _rounding(rounded: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    """Largest relative error; infinity where rounding overflows."""
    if not np.isfinite(rounded).all():
        return float("inf")
    nonzero = exact != 0
    return float((np.abs(rounded - exact)[nonzero] / np.abs(exact[nonzero])).max(initial=0.0))


def _scaled(values: NDArray[Any], multiplier: float) -> tuple[NDArray[Any], float]:
    """Values times the multiplier, rounded to their own type, and the largest relative error."""
    exact = values.astype(np.float64) * multiplier
    with np.errstate(over="ignore"):
        rounded = exact.astype(values.dtype)
    return rounded, _rounding(rounded.astype(np.float64), exact)


def scale_row(row: bytes, kind: str, multiplier: float) -> tuple[bytes, float]:
    """One row of a tensor of type `kind`, scaled, and the largest relative rounding error."""
    data = np.frombuffer(row, np.uint8).copy()
    if kind == "F32":
        scaled, error = _scaled(data.view(np.float32), multiplier)
        return scaled.tobytes(), error
    if kind == "BF16":
        import torch

        half = torch.from_numpy(data).view(torch.bfloat16)
        exact = half.double() * multiplier
        half.copy_(exact)
        return data.tobytes(), _rounding(half.double().numpy(), exact.numpy())
    if kind == "F16":
        scaled, error = _scaled(data.view(np.float16), multiplier)
        return scaled.tobytes(), error
    size, places = BLOCKS[kind]
    blocks = data.reshape(-1, size)
    worst = 0.0
    for place in places:
        halves = np.ascontiguousarray(blocks[:, place : place + 2]).view(np.float16)
        scaled, error = _scaled(halves, multiplier)
        blocks[:, place : place + 2] = scaled.view(np.uint8).reshape(-1, 2)
        worst = max(worst, error)
    return data.tobytes(), worst


def _check_linear(reader: Any, ups: dict[Part, Any], path: Path) -> None:
    """Raises ValueError where a neuron is not linear in its row of ffn_up."""
    names = {t.name for t in reader.tensors}
    clamped = [name for name in reader.fields if "swiglu_clamp" in name]
    if stated_architecture(reader) == "gpt-oss" or clamped:
        raise ValueError(
            "convert: expected neurons that are linear in ffn_up for format='gguf', got an MLP that "
            f"clamps it in '{path}'; use format='gguf-lora'"
        )
    for part, tensor in ups.items():
        rows = int(tensor.shape[1])
        if part.name("ffn_gate") not in names:
            what = "an MLP without a gate"
            if rows == 2 * part.width or part.name("ffn_gate_up") in names:
                what = "gate and up in one tensor"
            raise ValueError(
                f"convert: expected a gated MLP (ffn_gate and ffn_up) for format='gguf', got {what} "
                f"in '{path}'; use format='gguf-lora'"
            )
        if rows != part.width:
            raise ValueError(
                f"convert: expected {part.width} neurons per layer for this circuit, got {rows} in "
                f"'{path}'; use the model that it was found on"
            )
    if any(name.endswith(".ffn_sub_norm.weight") for name in names):
        raise ValueError(
            "convert: expected neurons that enter ffn_down directly, got a norm between "
            f"(ffn_sub_norm) in '{path}'; use format='gguf-lora'"
        )


def _edits(
    neurons: dict[int, list[int]], ups: dict[Part, Any], reader: Any, path: Path
) -> list[tuple[Any, int, int]]:
    """(tensor, place of a row in it, bytes of the row) of everything that is scaled."""
    names = {t.name: t for t in reader.tensors}
    edits = []
    for part, up in ups.items():
        own = part.own(neurons)
        bias = names.get(part.name("ffn_up").removesuffix("weight") + "bias")
        for tensor, first in ((up, 1), (bias, 0)):
            if tensor is None or not own:
                continue
            rows = math.prod(int(n) for n in tensor.shape[first:])
            if rows != part.experts * part.width:
                raise ValueError(
                    f"convert: expected {part.experts * part.width} values in '{tensor.name}' of "
                    f"'{path}', got {rows}; download it again"
                )
            kind = tensor.tensor_type.name
            if kind not in BLOCKS and kind not in FLOATS:
                raise ValueError(
                    f"convert: expected one of {', '.join((*BLOCKS, *FLOATS))} in "
                    f"'{tensor.name}', got {kind}; requantise the model, or use format='gguf-lora'"
                )
            length = int(tensor.n_bytes) // rows
            edits += [(tensor, e * part.width + j, length) for e in own for j in own[e]]
    return edits


def write_gguf(
    neurons: dict[int, list[int]],
    widths: list[int],
    source: Any,
    path: Path,
    multiplier: float,
    *,
    experts: Sequence[tuple[int, int]] = (),
    overwrite: bool = False,
) -> float:
    """Writes the patched file; returns the largest relative rounding error. See `cna.convert`."""
    require("gguf")
    file = gguf_path(source)
    if file is None:
        raise ValueError(
            f"convert: expected a GGUF file as source for format='gguf', got {source!r:.80}; pass "
            "its path"
        )
    reader = open_gguf(file)
    ups = part_tensors(reader, "ffn_up", file, parts_of(widths, experts))
    _check_linear(reader, ups, file)
    edits = _edits(neurons, ups, reader, file)
    if path.exists() and path.resolve() == file.resolve():
        raise ValueError(
            f"convert: expected another file than the source, got '{path}' for both; choose "
            "another name"
        )
    worst = 0.0
    with output_file(path, overwrite) as target:
        shutil.copyfile(file, target)
        with target.open("r+b") as handle:
            for tensor, row, length in edits:
                at = int(tensor.data_offset) + row * length
                handle.seek(at)
                scaled, error = scale_row(handle.read(length), tensor.tensor_type.name, multiplier)
                if not np.isfinite(error):
                    raise ValueError(
                        f"convert: expected numbers within the type's range, got overflow in "
                        f"'{tensor.name}' at multiplier {multiplier:g}; choose a smaller one"
                    )
                handle.seek(at)
                handle.write(scaled)
                worst = max(worst, error)
    return worst
