"""`cna discover`: finds the circuit that tells two sets of prompts apart."""

from __future__ import annotations

import argparse
from typing import Any

from .common import (
    chat_of,
    integers,
    layer_lines,
    load_model,
    model_options,
    new_file,
    prompts_of,
    task_option,
    together,
)

TEXT = "Find the circuit that tells two sets of prompts apart."


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    task_option(parser)
    parser.add_argument("--positive", help="prompts with the behaviour: .txt, .csv or .jsonl")
    parser.add_argument(
        "--negative",
        help="prompts without the behaviour, as many and as alike as can be: .txt, .csv or .jsonl",
    )
    parser.add_argument("--out", "-o", default="circuit.json", help="file to write")
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.001,
        help="share of all the model's neurons that the circuit has",
    )
    parser.add_argument(
        "--k", type=int, default=None, help="number of neurons instead of a fraction"
    )
    parser.add_argument(
        "--universal", default="default", help="default, none, or a file of prompts"
    )
    parser.add_argument(
        "--ranking",
        default="mean_difference",
        choices=["mean_difference", "effect_size", "contribution", "residual", "direction"],
        help="mean_difference is the paper's; the last three need the model's weights",
    )
    parser.add_argument(
        "--penalty", type=float, default=0.1, help="of a contribution: weight of what it disturbs"
    )
    parser.add_argument(
        "--side",
        choices=["positive", "both"],
        help="neurons that add to the behaviour, or both signs (default: as the ranking does)",
    )
    parser.add_argument("--layers", type=integers, help="first and last layer, e.g. 10,29")
    parser.add_argument(
        "--direction-layer",
        type=int,
        help="layer whose difference of means the ranking 'direction' projects on",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="feed prompts as raw text, without the model's chat template",
    )
    parser.add_argument(
        "--resume", help="folder that keeps what is finished; a stopped run goes on"
    )


@together
def run(args: argparse.Namespace) -> int:
    from .. import compare, discover, universal_neurons
    from ..many import discover_distributed, universal_neurons_distributed
    from ..many.ranks import is_distributed
    from ..prompts import tasks

    chat = chat_of(args)
    if args.task:
        task = tasks.load(args.task)
        positive, negative, chat = task.positive, task.negative, chat_of(args, task.chat)
    elif args.positive and args.negative:
        positive, negative = prompts_of(args.positive), prompts_of(args.negative)
    else:
        raise ValueError(
            "discover: expected --task, or --positive and --negative, got neither; name a task or two "
            "files of prompts"
        )
    out = new_file(args.out, "discover")
    model = load_model(args)
    universal: Any = None if args.universal == "none" else "default"
    shared = bool(args.resume) or is_distributed()
    if args.universal not in ("default", "none"):
        count = universal_neurons_distributed if shared else universal_neurons
        more = {"resume": args.resume} if shared else {}
        prompts = prompts_of(args.universal)
        universal = count(model, prompts, chat=chat, batch_size=args.batch_size, **more)
    options = {
        "fraction": args.fraction,
        "k": args.k,
        "universal": universal,
        "chat": chat,
        "ranking": args.ranking,
        "side": args.side,
        "layers": args.layers,
        "batch_size": args.batch_size,
    }
    weighted = {"penalty": args.penalty, "direction_layer": args.direction_layer}
    if shared:
        circuit = discover_distributed(model, positive, negative, resume=args.resume, **options)
    else:
        circuit = discover(model, positive, negative, **options, **weighted)
    if circuit is None:  # rank 0 has it
        return 0
    circuit.save(out)
    print(circuit)
    if args.precision != "float32" and not shared:
        exact = discover(load_model(args, "float32"), positive, negative, **options, **weighted)
        same = compare(circuit, exact).shared
        print(f"{same} of {len(circuit)} neurons are those that float32 finds")
    print("\n".join(layer_lines(circuit)))
    print(f"wrote {out}")
    return 0
