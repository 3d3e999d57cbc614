"""Conversion: a circuit at one strength becomes a file that unmodified engines serve.

    cna.convert(circuit, "model-folder", "steered", format="hf", multiplier=0.0)

Scaling the neurons S of a layer by m, scaling the columns S of its down projection by m, and adding
the LoRA B = (m - 1) * W[:, S], A = one-hot(S) are one and the same.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from .._core import Circuit
from ..base.log import note
from ..circuits.operation import Operation
from ..circuits.vectors import SteeringVector
from ..hosts.model import Model
from .authors_json import write_authors_json
from .control_vector import residual_vectors, save_control_vector
from .folded import write_folded
from .gguf_lora import write_gguf_lora
from .gguf_patch import write_gguf
from .lora import rank_note, write_peft

FORMATS = ("hf", "peft", "gguf-lora", "gguf", "control-vector", "authors-json")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `convert` wrote.

    Attributes:
        path: the folder or file.
        format, multiplier: as asked for.
        neurons, layers: number of neurons, and the layers that hold them.
        rank: of an adapter; 0 where there is none.
        rounding: largest relative error of a patched scale ("gguf"); 0 elsewhere.
        notes: what to know when serving it.
    """

    path: Path
    format: str
    multiplier: float
    neurons: int
    layers: tuple[int, ...]
    rank: int = 0
    rounding: float = 0.0
    notes: tuple[str, ...] = ()


def _by_layer(circuit: Circuit) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for neuron in circuit.neurons:
        out.setdefault(neuron.layer, []).append(neuron.index)
    return {layer: sorted(indices) for layer, indices in sorted(out.items())}


def _check(what: Any, format: str, multiplier: float, pattern: str) -> None:
    if format not in FORMATS:
        raise ValueError(
            f"convert: expected one of the formats {', '.join(FORMATS)}, got {format!r}; choose one"
        )
    if not math.isfinite(multiplier):
        raise ValueError(
            f"convert: expected a finite multiplier, got {multiplier}; 0 ablates, 2 amplifies"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"convert: expected a regular expression as pattern, got '{pattern}' ({error}); try "
            "'down_proj$'"
        ) from None
    if format in ("control-vector", "authors-json") and multiplier not in (0.0, 1.0):
        raise ValueError(
            f"convert: expected no multiplier for format='{format}', got {multiplier:g}; its "
            "strength is chosen where it is used"
        )
    if format != "control-vector" and not isinstance(what, Circuit):
        raise ValueError(
            f"convert: expected a Circuit, got {type(what).__name__}; discover or load one first"
        )
    if format == "peft" and what.experts:
        raise ValueError(
            "convert: expected a circuit of a dense model for format='peft', got one of a mixture of "
            "experts, whose adapters vLLM does not serve; use format='hf', 'gguf' or 'gguf-lora'"
        )
    if format != "control-vector" and not len(what):
        raise ValueError(
            "convert: expected at least one neuron, got an empty circuit; discover one"
        )


def convert(
    circuit: Any,
    source: Any,
    path: str | os.PathLike[str],
    *,
    format: str = "hf",
    multiplier: float = 0.0,
    pattern: str = "",
    overwrite: bool = False,
    quiet: bool = False,
) -> Conversion:
    """Writes a circuit at one strength as a model or an adapter that other engines serve.

    Args:
        circuit: the circuit, or an `Operation` on it: a shift becomes a control vector, exactly, whose
            coefficient is its strength c; "towards" has no file. For "control-vector" also a
            `SteeringVector` or a dict of layer -> vector [hidden].
        source: the model that it was found on. "hf" and "peft": a Hugging Face folder, an id, a
            transformers model or "smollm2". "gguf": a GGUF file or "smollm2". "gguf-lora": any of
            these, best the GGUF base it is served on. "control-vector": the architecture's name,
            such as "llama"; for a shift the `cna.Model`. "authors-json": not used.
        path: what to write: a folder for "hf" and "peft", else a file. Whole or not at all.
        format: "hf" folds the circuit into a checkpoint (down_proj columns times m), streamed;
            "peft" and "gguf-lora" write exact LoRA adapters; "gguf" scales rows of ffn_up in a
            quantised file of a gated model without requantising; "control-vector" writes steering
            vectors for llama.cpp; "authors-json" the released tool's circuit file.
        multiplier: 0 ablates, 1 is the model itself, 2 amplifies, negative reverses.
        pattern: regular expression for the module path of the down projection, where unusual.
        overwrite: replace a file, or a folder that an earlier conversion wrote.
        quiet: do not print the notes.
    Raises:
        ValueError: wrong source, shape, type of weights, or something is in the way.
        RuntimeError: a package is missing (the message names it), or the path cannot be written.
    """
    circuit, multiplier, source, hint = _as_shipped(circuit, source, format, multiplier)
    _check(circuit, format, multiplier, pattern)
    path = Path(path).expanduser()
    notes: list[str] = []
    rank, rounding = 0, 0.0
    if format == "control-vector":
        vectors = residual_vectors(circuit)
        save_control_vector(vectors, path, hint, overwrite=overwrite)
        layers = tuple(sorted(int(layer) for layer in vectors))
        notes.append(f"serve with: llama-server --control-vector-scaled {path}:COEFFICIENT")
        if len(layers) > 1 and isinstance(circuit, SteeringVector):
            notes.append(
                f"adds the vectors of {len(layers)} layers at once; sweeps measure one at a time, "
                "which `cna convert --layers` writes"
            )
        return _report(Conversion(path, format, multiplier, 0, layers, notes=tuple(notes)), quiet)
    assert isinstance(circuit, Circuit)
    neurons, widths = _by_layer(circuit), circuit.widths
    mark = {"format": format, "multiplier": multiplier, "circuit": json.loads(circuit.to_json())}
    text = json.dumps(mark, indent=1) + "\n"
    common: dict[str, Any] = {"overwrite": overwrite, "pattern": pattern}
    if format != "peft":
        common["experts"] = circuit.experts
    if format == "hf":
        left_out = write_folded(neurons, widths, source, path, multiplier, mark=text, **common)
        if left_out:
            notes.append(f"left out, not steered: {', '.join(left_out)}")
    elif format == "peft":
        rank = write_peft(neurons, widths, source, path, multiplier, mark=text, **common)
        notes.append(rank_note(rank))
    elif format == "gguf-lora":
        rank = write_gguf_lora(neurons, widths, source, path, multiplier, **common)
        notes.append(
            f"rank {rank}; llama.cpp has no rank limit; a LoRA scale s steers at multiplier "
            f"1 + s * ({multiplier:g} - 1)"
        )
    elif format == "gguf":
        del common["pattern"]
        rounding = write_gguf(neurons, widths, source, path, multiplier, **common)
        notes.append(f"largest relative rounding of a patched scale: {rounding:.2g}")
    else:
        write_authors_json(circuit, path, overwrite=overwrite)
    done = Conversion(
        path, format, multiplier, len(circuit), tuple(neurons), rank, rounding, tuple(notes)
    )
    return _report(done, quiet)


def _as_shipped(
    what: Any, source: Any, format: str, multiplier: float
) -> tuple[Any, float, Any, str]:
    """(circuit or vectors, multiplier, source, architecture) of what `convert` is given.

    Raises ValueError for an operation that no format, or not this one, holds.
    """
    if not isinstance(what, Operation):
        return what, multiplier, source, _hint(source)
    if what.name == "scale":
        return what.circuit, multiplier, source, _hint(source)
    if what.name == "towards":
        raise ValueError(
            "convert: expected an operation that a file can hold, got 'towards', which scales and "
            "moves at once; serve it with cna, or choose 'scale' or 'shift'"
        )
    if format != "control-vector":
        raise ValueError(
            f"convert: expected format='control-vector' for a shift, got {format!r}; the others only "
            "scale neurons"
        )
    if not isinstance(source, Model):
        raise ValueError(
            f"convert: expected the model of cna.load or cna.live as source of a shift, got "
            f"{type(source).__name__}; its weights say what the neurons write"
        )
    written = source.core.difference_written(what.circuit)
    return {layer: -v for layer, v in written.items()}, multiplier, source, "llama"


def _hint(source: Any) -> str:
    kind = getattr(getattr(source, "config", None), "model_type", None)
    return str(kind or ("llama" if source in (None, "smollm2") else source))


def _report(done: Conversion, quiet: bool) -> Conversion:
    if not quiet:
        for text in done.notes:
            note(text)
    return done
