"""`cna verify`: whether a circuit is one of this model."""

from __future__ import annotations

import argparse

from .common import load_model, model_options

TEXT = "Check that a circuit was found on this model: weights, chat template, ten prompts."


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    parser.add_argument("circuit", help="file of a circuit, from cna discover, sweep or tune")
    parser.add_argument(
        "--write", action="store_true", help="write the model's fingerprint into the circuit's file"
    )


def run(args: argparse.Namespace) -> int:
    from .._core import Circuit
    from ..circuits.fingerprint import verify, with_fingerprint

    circuit = Circuit.load(args.circuit)
    model = load_model(args)
    if args.write:
        circuit = with_fingerprint(circuit, model)
        circuit.save(args.circuit)
    marks = {True: "ok", False: "NO", None: "?"}
    found = verify(circuit, model)
    for verdict in found:
        print(f"{marks[verdict.ok]:<4}{verdict.name}: {verdict.text}")
    return int(any(verdict.ok is False for verdict in found))
