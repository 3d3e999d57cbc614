"""Steering vectors as a GGUF control vector, as llama.cpp reads it.

    x[N] <- x[N] + c * v[N]     x[N]: residual stream behind layer N, counted from 0; `direction.N`

The strength c is the server's (`--control-vector-scaled FILE:c`). llama.cpp does not steer behind
layer 0: it refuses a file with `direction.0`, and so does this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import output_file, require
from .gguf_file import finish, open_gguf
from .gguf_header import one_line


def residual_vectors(what: Any) -> Mapping[int, Any]:
    """layer -> vector of a dict or of a `SteeringVector` for the residual stream."""
    if isinstance(what, Mapping) and what:
        return what
    vectors = getattr(what, "vectors", None)
    if not isinstance(vectors, Mapping) or not vectors:
        got = "an empty one" if isinstance(what, Mapping) else type(what).__name__
        raise ValueError(
            "save_control_vector: expected a dict of layer -> vector or a SteeringVector, got "
            f"{got}; a circuit takes another format"
        )
    if getattr(what, "site", "residual") != "residual":
        raise ValueError(
            "save_control_vector: expected vectors of the residual stream, got those of site "
            f"'{what.site}'; llama.cpp adds behind a layer"
        )
    return vectors


def save_control_vector(
    vectors: Any,
    path: str | os.PathLike[str],
    model_hint: str,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a control vector for llama.cpp.

    Args:
        vectors: layer -> vector [hidden], or a `SteeringVector` of the residual stream; layer 0 is
            not allowed (see the module).
        model_hint: architecture that they belong to, such as "llama"; kept as a note.
    Raises:
        ValueError: no vector, layer 0, unequal lengths, NaN, or another site.
        RuntimeError: the package gguf is missing, or the file cannot be written.
    """
    gguf = require("gguf")
    vectors = residual_vectors(vectors)
    tensors: dict[int, Tensor] = {}
    for layer, vector in sorted(vectors.items()):
        if isinstance(layer, bool) or int(layer) != layer or layer < 1:
            raise ValueError(
                f"save_control_vector: expected layers from 1 on, got {layer}; llama.cpp cannot "
                "steer behind layer 0, drop it or fold it into a model"
            )
        tensors[int(layer)] = torch.as_tensor(vector).detach().to("cpu", torch.float32).contiguous()
    shapes = {tuple(t.shape) for t in tensors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            "save_control_vector: expected vectors [hidden] of one length, got shapes "
            f"{sorted(shapes)}; use vectors of one model"
        )
    if not all(t.isfinite().all() for t in tensors.values()):
        raise ValueError(
            "save_control_vector: expected finite numbers, got NaN or infinity; check the vectors"
        )
    path = Path(path)
    with output_file(path, overwrite) as target:
        writer = gguf.GGUFWriter(target, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(tensors))
        for layer, tensor in tensors.items():
            writer.add_tensor(f"direction.{layer}", tensor.numpy())
        finish(writer)
    return path


def load_control_vector(path: str | os.PathLike[str]) -> dict[int, Tensor]:
    """Vectors of a control vector file: layer -> float32 [hidden].

    Raises:
        RuntimeError: no file there, or the package gguf is missing.
        ValueError: not a GGUF file, or one with tensors that are no directions.
    """
    path = Path(path)
    out = {}
    for tensor in open_gguf(path).tensors:
        name = re.fullmatch(r"direction\.([1-9][0-9]{0,5})", tensor.name)
        if not name or tensor.tensor_type.name != "F32" or len(tensor.shape) != 1:
            raise ValueError(
                f"load_control_vector: expected float32 tensors direction.1 and on in '{path}', "
                f"got '{one_line(tensor.name)}'; pass a control vector file"
            )
        out[int(name[1])] = torch.from_numpy(tensor.data.copy())
    if not out:
        raise ValueError(
            f"load_control_vector: expected directions in '{path}', found none; pass a control "
            "vector file"
        )
    return dict(sorted(out.items()))
