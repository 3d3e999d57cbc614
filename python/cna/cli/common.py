"""What the commands share: options, loading, prompts, files.

Imports of cna are inside, so that `cna --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import _core

Command = Callable[[argparse.Namespace], int]


def model_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that open a model."""
    parser.add_argument(
        "--model",
        "-m",
        default="smollm2",
        help="smollm2, a Hugging Face id or folder, or an export",
    )
    parser.add_argument(
        "--revision", default=None, help="branch, tag or commit of a Hugging Face id"
    )
    opening_options(parser)
    parser.add_argument("--pattern", default="", help="module path of the down projection (regex)")
    parser.add_argument(
        "--live",
        action="store_true",
        help="run the checkpoint as it is, nothing exported (mixtures of experts, unusual models)",
    )
    parser.add_argument(
        "--precision",
        choices=["float32", "bf16"],
        default="float32",
        help="bf16: products of a float32 export in bfloat16, where the processor has them",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="prompts in one forward pass: more is faster until memory runs out",
    )


def place_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that make or open a model: where it runs, and in what numbers."""
    parser.add_argument(
        "--dtype",
        default="auto",
        help="float32, bfloat16 or float16 (auto: float32 on a CPU, the checkpoint's own on a GPU)",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 ... (auto: a GPU if there is one)"
    )


def opening_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that open a model: its place, and what its chat template is told."""
    place_options(parser)
    parser.add_argument("--system", help="a system message in front of every chat prompt")
    parser.add_argument(
        "--template-kwargs",
        type=_template_kwargs,
        metavar="JSON",
        help='further arguments of the chat template, such as \'{"date_string": "26 Jul 2024"}\'',
    )


def _template_kwargs(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return values


def opening(args: argparse.Namespace) -> dict[str, Any]:
    """`opening_options` as arguments of `cna.load`."""
    names = ("dtype", "device", "system", "template_kwargs")
    return {name: getattr(args, name) for name in names}


def steering_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that answer, steered if a circuit is given."""
    parser.add_argument("--circuit", "-c", help="circuit.json, or the run folder of a tune")
    parser.add_argument(
        "--multiplier",
        type=float,
        help="strength: 0 ablates, 1 is the model (default: the folder's own, else 0)",
    )


def drawing_options(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """Of commands that write answers: how long, and how tokens are drawn."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        help="tokens that an answer may have at most",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="of drawing tokens: 0 takes the likeliest, 1 the model's own odds, more is wilder",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the random draws where --temperature is above 0: the same seed gives the same answers",
    )


def task_option(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Of commands that take a task."""
    parser.add_argument(
        "--task", default=default, help="built-in task, or a .csv, .jsonl or folder of your own"
    )


def integers(text: str) -> list[int]:
    try:
        return [int(x) for x in text.split(",") if x.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layers such as 15,20, got '{text}'") from None


def numbers(text: str) -> list[float]:
    try:
        return [float(x) for x in text.split(",") if x.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as -1,0,1, got '{text}'") from None


_LISTS = ("--multipliers", "--multiplier", "--coefficients", "--biases", "--layers")
_NUMBER = re.compile(r"-?[\d.][\d.,eE+-]*")


def join_numbers(argv: Sequence[str]) -> list[str]:
    """Numbers behind an option that takes them, as one argument that argparse takes for no option.

    `--multipliers -1,0,1` and `--multipliers -1 0 1` become `--multipliers=-1,0,1`.
    """
    out: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        values: list[str] = []
        while word in _LISTS and rest and _NUMBER.fullmatch(rest[0]):
            values.append(rest.pop(0))
            if word == "--multiplier":
                break
        out.append(f"{word}={','.join(values)}" if values else word)
    return out


def together(run: Command) -> Command:
    """Under torchrun, all processes join before a command and leave after it."""

    def joined(args: argparse.Namespace) -> int:
        from ..many import ranks

        with ranks.group(args.command):
            return run(args)

    return joined


def load_model(args: argparse.Namespace, precision: str | None = None) -> Any:
    """The model that a command was given; `precision` instead of its own."""
    from .. import load
    from ..many import ranks

    how = opening(args) | {"device": ranks.device_of_rank(args.device)}
    how |= {"format": "live"} if args.live else {}
    how |= {"precision": precision or args.precision}

    def open_model() -> Any:
        return load(args.model, revision=args.revision, pattern=args.pattern, **how)

    return ranks.load_in_turn(open_model) if ranks.is_distributed() else open_model()


def chat_of(args: argparse.Namespace, default: bool | None = None) -> bool | None:
    return False if args.raw else default


def prompts_of(text: str) -> list[Any]:
    """The prompts of a file, or those that a built-in task is measured on."""
    from ..prompts import read_prompts, tasks

    if not Path(text).exists() and text in tasks.names():
        return read_prompts(tasks.load(text))
    return read_prompts(text)


def strength_of(asked: float | None, steering: tuple[Any, float | None]) -> float:
    """The strength that was asked for, else the run folder's own, else an ablation."""
    operation, chosen = steering
    if asked is not None:
        return asked
    return chosen if chosen is not None else 0.0 if operation.name == "scale" else 1.0


def new_file(path: str, what: str) -> Path:
    from ..base.files import require_folder

    out = Path(path)
    if out.is_dir():
        raise ValueError(
            f"{what}: expected a file name, got the folder '{path}'; name the file in it"
        )
    require_folder(out.parent, what)
    return out


def layer_lines(circuit: _core.Circuit, width: int = 40) -> list[str]:
    """One line per layer that holds neurons, with a bar."""
    most = max(circuit.layer_counts, default=0)
    return [
        f"  layer {layer:3d} {'█' * max(1, round(width * count / most))} {count}"
        for layer, count in enumerate(circuit.layer_counts)
        if count
    ]


_COLUMNS = (
    "method layer strength n rate rate_low rate_high other broken benign_rate benign_quality quality "
    "kl_benign kl_evaluation answer_perplexity relevance perplexity accuracy p_value"
).split()


def table_text(table: Any) -> str:
    """A sweep's table for a terminal, without the draws of random neurons."""
    rows = table[table["kind"] != "random"]
    shown = rows[[c for c in _COLUMNS if c in rows]]
    return shown.to_string(index=False, float_format="%.3f", na_rep="")
