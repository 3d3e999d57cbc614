"""`cna compare`: the overlap of two circuits."""

from __future__ import annotations

import argparse

from .common import new_file

TEXT = "Overlap of two circuits."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="file of a circuit, from cna discover, sweep or tune")
    parser.add_argument("b", help="another one, of a model of the same shape")
    parser.add_argument("--plot", help="file to write the overlap of both circuits to, as PNG")


def run(args: argparse.Namespace) -> int:
    from .. import Circuit, compare

    a, b = Circuit.load(args.a), Circuit.load(args.b)
    overlap = compare(a, b)
    print(
        f"{args.a}: {len(a)} neurons, {100 * a.share_in_last_layers(3):.1f} % in the last 3 layers"
    )
    print(
        f"{args.b}: {len(b)} neurons, {100 * b.share_in_last_layers(3):.1f} % in the last 3 layers"
    )
    print(
        f"shared {overlap.shared}, Jaccard {overlap.jaccard:.4f}, "
        f"hypergeometric log10 p {overlap.log10_p_value:.2f}"
    )
    if args.plot:
        from ..show import plots

        plots.save(plots.overlap(a, b), new_file(args.plot, "compare"))
        print(f"wrote {args.plot}")
    return 0
