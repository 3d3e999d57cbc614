"""`cna tune`: finds the setting with the least behaviour left, under a bound on its side effect."""

from __future__ import annotations

import argparse

from .common import load_model, model_options, table_text, task_option

TEXT = "Choose ranking, size, operation and strength for a task, under a bound on side effect."


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    task_option(parser, default="capability-refusal")
    parser.add_argument(
        "--max-kl", type=float, default=0.05, help="bound on the benign KL, nats per token"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=600.0,
        help="seconds after which the search stops with the best so far",
    )
    parser.add_argument("--steps", type=int, help="at most so many batches of candidates")
    parser.add_argument(
        "--per-step",
        type=int,
        default=8,
        help="candidates that are measured together in one step of the search",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the proposals")
    parser.add_argument(
        "--max-new-tokens", type=int, default=40, help="tokens that an answer may have at most"
    )
    parser.add_argument(
        "--out", "-o", default="runs/tune", help="run folder; a stopped search goes on"
    )


def run(args: argparse.Namespace) -> int:
    from ..measure.tuning import tune
    from ..prompts import tasks

    task = tasks.load(args.task)
    model = load_model(args)
    best = tune(
        model,
        task,
        args.max_kl,
        seconds=args.seconds,
        steps=args.steps,
        per_step=args.per_step,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        out=args.out,
    )
    columns = [
        "ranking", "penalty", "k", "first_layer", "operation", "strength",
        "left", "rate", "other", "broken", "kl",
    ]  # fmt: skip
    print("front of the circuits, on the choice half:")
    print(best.front[columns].to_string(index=False, float_format="%.3f"))
    kept = "within" if best.within_bound else "NOT within"
    print(f"chosen: {best.name}, {kept} the bound of {args.max_kl:g}")
    print("on the evaluation prompts:")
    print(table_text(best.evaluation.table))
    print(f"wrote {args.out}")
    return 0
