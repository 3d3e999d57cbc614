"""`cna tasks`: the built-in tasks, or what one of them, or a file, holds."""

from __future__ import annotations

import argparse

TEXT = "List the built-in tasks, or show what one of them or a file of yours holds."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", nargs="*", help="names or paths (default: all built-in ones)")
    parser.add_argument(
        "--prompts", type=int, default=0, help="how many prompts of each set are shown"
    )


def run(args: argparse.Namespace) -> int:
    from ..hosts.messages import as_text
    from ..prompts import tasks

    for name in args.task or tasks.names():
        task = tasks.load(name)
        print(f"{task.name}: {task.description}")
        sets = {
            label: getattr(task, label)
            for label in ("positive", "negative", "evaluation", "benign")
        }
        counts = ", ".join(f"{len(prompts)} {label}" for label, prompts in sets.items())
        print(f"   {counts}; judge {task.judge.name}")
        if task.source:
            print(f"   {task.source}")
        for label, prompts in sets.items():
            for prompt in prompts[: args.prompts]:
                print(f"   {label}: {as_text(prompt)!r}")
    return 0
