"""`cna convert`: ships a circuit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import integers, opening, opening_options, strength_of

TEXT = "Ship a circuit: fold it into weights, LoRA, GGUF and others."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "circuit",
        help="circuit.json or the run folder of a tune; for control-vector a task, whose CAA is written",
    )
    parser.add_argument(
        "--format",
        "-f",
        default="hf",
        choices=["hf", "peft", "gguf-lora", "gguf", "control-vector", "authors-json"],
        help="hf is a checkpoint with the circuit in its weights, the others are files for servers",
    )
    parser.add_argument(
        "--source", "-s", default="smollm2", help="the model: folder, id or GGUF file"
    )
    parser.add_argument(
        "--multiplier",
        type=float,
        help="0 ablates, 1 is the model (default: the folder's own, else 0)",
    )
    parser.add_argument("--out", "-o", required=True, help="file or folder to write, by the format")
    parser.add_argument("--pattern", default="", help="module path of the down projection (regex)")
    parser.add_argument(
        "--layers", type=integers, help="of a control vector, e.g. 15,20; default: all"
    )
    parser.add_argument(
        "--architecture",
        default="llama",
        help="llama.cpp's name of the architecture, which a control vector must carry",
    )
    opening_options(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file or folder that is there already"
    )


def run(args: argparse.Namespace) -> int:
    from ..ship.conversion import convert

    what, source, multiplier = _shipped(args)
    done = convert(
        what,
        source,
        args.out,
        format=args.format,
        multiplier=multiplier,
        pattern=args.pattern,
        overwrite=args.overwrite,
        quiet=True,
    )
    print(f"wrote {done.path}")
    for note in done.notes:
        print(f"  {note}")
    return 0


def _shipped(args: argparse.Namespace) -> tuple[Any, Any, float]:
    """(circuit, operation or vectors; source; multiplier) of the command line."""
    from .. import load
    from ..circuits.operation import load_steering
    from ..prompts import tasks

    vectors = args.format == "control-vector"
    if vectors and (args.circuit in tasks.names() or not Path(args.circuit).is_dir()):
        return _caa_vectors(args), args.architecture, 0.0
    steering = load_steering(args.circuit)
    if steering[0].name != "shift":
        return steering[0], args.source, strength_of(args.multiplier, steering)
    # Of a shift the server's coefficient is the strength.
    if not vectors:
        return steering[0], args.source, 0.0
    return steering[0], load(args.source, pattern=args.pattern, **opening(args)), 0.0


def _caa_vectors(args: argparse.Namespace) -> Any:
    """CAA vectors of a task's prompts, without that of layer 0, which llama.cpp cannot steer."""
    from .. import caa, load
    from ..prompts import tasks

    task = tasks.load(args.circuit)
    model = load(args.source, pattern=args.pattern, **opening(args))
    layers = args.layers or range(1, model.n_layers)
    return caa(model, task.positive, task.negative, layers=list(layers), chat=task.chat)
