"""`cna reproduce`: the paper's experiments."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import opening, opening_options

TEXT = "The paper's experiments: printed, logged and measured."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        "-m",
        default="smollm2",
        help="smollm2, a Hugging Face id or folder, or an export",
    )
    opening_options(parser)
    parser.add_argument("--base", default=None, help="the base model of the same family")
    parser.add_argument(
        "--parts",
        type=lambda text: [part.strip() for part in text.split(",")],
        help="of refusal, quality, controls, mmlu, examples, layers and overlap, such as layers,overlap "
        "(default: all, overlap with --base only, mmlu with --mmlu only)",
    )
    parser.add_argument(
        "--k", type=int, default=200, help="neurons of the circuits of the layer and overlap tables"
    )
    parser.add_argument(
        "--fraction", type=float, default=0.001, help="of all neurons, in the circuits that steer"
    )
    parser.add_argument(
        "--jbb",
        default=None,
        help="your copy of requests to refuse: a CSV file in the JailbreakBench layout, or one a line",
    )
    parser.add_argument(
        "--benign",
        default=None,
        help="your harmless prompts, about as many as in --jbb, half of them for discovery",
    )
    parser.add_argument(
        "--discovery",
        default=None,
        help="your other requests to find the circuit with (default: every other one of --jbb)",
    )
    parser.add_argument(
        "--mmlu",
        default=None,
        help="your folder of MMLU's *_test.csv, or one such file: 1000 questions",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="12 prompts, short answers and fewer settings, to see that it runs",
    )
    parser.add_argument("--out", "-o", default="runs/reproduce", help="folder to write")


def run(args: argparse.Namespace) -> int:
    from ..paper.experiments import main_reproduce

    return main_reproduce(
        args.model,
        Path(args.out),
        base=args.base,
        quick=args.quick,
        jbb=args.jbb,
        benign=args.benign,
        discovery=args.discovery,
        mmlu=args.mmlu,
        parts=args.parts,
        k=args.k,
        fraction=args.fraction,
        **opening(args),
    )
