"""`cna judges`: the named judges, or what they say of answers."""

from __future__ import annotations

import argparse
import sys

TEXT = "List the judges, or let one judge answers from a file or a pipe."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("judge", nargs="?", help="a name, or a judge.json (default: list all)")
    parser.add_argument("answers", nargs="*", help="answers (default: one a line from the pipe)")
    parser.add_argument(
        "--prompt", help="what was asked, for judges that compare the answer with it"
    )


def run(args: argparse.Namespace) -> int:
    from ..prompts import judges

    if args.judge is None:
        for name in judges.names():
            about = (type(judges.get(name)).__doc__ or "").splitlines()[0]
            print(f"{name}: {about}")
        return 0
    judge = judges.load(args.judge) if args.judge.endswith(".json") else judges.get(args.judge)
    answers = args.answers or [line.rstrip("\n") for line in sys.stdin]
    verdicts = [bool(judge(answer, args.prompt)) for answer in answers]
    for answer, verdict in zip(answers, verdicts, strict=True):
        print(f"{'yes' if verdict else 'no ':<4}{answer}")
    print(f"{sum(verdicts)} of {len(verdicts)} by {judge.name}")
    return 0
