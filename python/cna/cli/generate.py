"""`cna generate`: answers prompts, steered or not."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .common import (
    chat_of,
    drawing_options,
    load_model,
    model_options,
    prompts_of,
    steering_options,
    strength_of,
)

TEXT = "Answer prompts, steered by a circuit if one is given."


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    parser.add_argument(
        "prompt",
        nargs="*",
        help="prompts to answer, each in quotes",
    )
    parser.add_argument("--prompts", help="file of prompts, or a built-in task")
    steering_options(parser)
    drawing_options(parser, max_new_tokens=64)
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw only from the likeliest tokens that have this share of probability together",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="feed prompts as raw text, without the model's chat template",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line, with prompt, answer and strength",
    )


def run(args: argparse.Namespace) -> int:
    from ..circuits.operation import load_steering
    from ..hosts.messages import as_text

    prompts: list[Any] = list(args.prompt or [])
    if args.prompts:
        prompts += prompts_of(args.prompts)
    if not prompts:
        raise ValueError(
            "generate: expected a prompt or --prompts FILE, got none; write one in quotes"
        )
    steering = load_steering(args.circuit) if args.circuit else None
    model = load_model(args)
    options = {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "seed": args.seed,
        "top_p": args.top_p,
        "chat": chat_of(args),
        "batch_size": args.batch_size,
    }
    if steering is None:
        answers = model.generate(prompts, **options)
    else:
        with model.steer(steering[0], strength_of(args.multiplier, steering)):
            answers = model.generate(prompts, **options)
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16")
    for prompt, answer in zip(prompts, answers, strict=True):
        if args.json:
            print(json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=not unicode))
        else:
            print(f"> {as_text(prompt)}\n{answer.strip()}\n")
    return 0
