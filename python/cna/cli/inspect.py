"""`cna inspect`: what the neurons of a circuit do, as cards in the terminal, a page and a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .common import load_model, model_options, task_option

TEXT = "Show what the neurons of a circuit do: tokens, contexts, writes, effect of each alone."


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    parser.add_argument("circuit", help="circuit.json, or the run folder of a sweep or a tune")
    task_option(parser)
    parser.add_argument("--texts", help="file of texts, one a line (default: the bundled ones)")
    parser.add_argument(
        "--tokens", type=int, default=5, help="how many tokens each list on a card has"
    )
    parser.add_argument(
        "--top", type=int, default=10, help="how many neurons' cards are printed; all are written"
    )
    parser.add_argument(
        "--out",
        "-o",
        help="folder to write neurons.html and neurons.csv to; a run's folder shows them in its report",
    )


def run(args: argparse.Namespace) -> int:
    from ..analysis.cards import cards
    from ..circuits.operation import load_steering
    from ..prompts import read_prompts, tasks

    operation, _ = load_steering(args.circuit)
    task = tasks.load(args.task) if args.task else None
    texts = None if args.texts is None else read_prompts(args.texts)
    model = load_model(args)
    found = cards(
        operation.circuit, model, texts, task=task, n=args.tokens, batch_size=args.batch_size
    )
    for card in list(found)[: args.top]:
        print("\n".join(_lines(card)))
    if args.out:
        folder = found.save(Path(args.out))
        print(f"wrote {folder / 'neurons.html'} and neurons.csv")
        if (folder / "report.html").exists():  # of a run: its page shows them too
            from ..show.report import write_report

            print(f"wrote {write_report(folder)}")
    return 0


def _lines(card: Any) -> list[str]:
    numbers = ", ".join(
        f"{name.replace('_', ' ')} {value:.3g}"
        for name, value in card.numbers.items()
        if value is not None
    )
    lines = [f"{card.rank + 1}. {card.name}: {numbers}"]
    if card.raises:
        lines.append(f"   raises {_tokens(card.raises)}; lowers {_tokens(card.lowers)}")
    lines += [f"   {context}" for context in card.strongest[:3]]
    return [line.replace("\n", "\\n") for line in lines]


def _tokens(items: list[tuple[str, float]]) -> str:
    return " ".join(repr(token) for token, _ in items)
