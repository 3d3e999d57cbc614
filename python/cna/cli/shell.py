"""The command line: `cna demo | export | discover | generate | sweep | compare | ...`.

Exit codes: 0 done, 1 a check failed, 2 bad input (one line says what), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from .. import _core
from ..base.errors import first_line
from . import (
    cache,
    chat,
    cmake_dir,
    compare,
    convert,
    demo,
    discover,
    doctor,
    export,
    generate,
    inspect,
    judges,
    models,
    report,
    reproduce,
    sweep,
    tasks,
    tune,
    verify,
)
from .common import join_numbers

COMMANDS = {
    "demo": demo,
    "export": export,
    "discover": discover,
    "tune": tune,
    "generate": generate,
    "chat": chat,
    "sweep": sweep,
    "inspect": inspect,
    "compare": compare,
    "report": report,
    "convert": convert,
    "reproduce": reproduce,
    "doctor": doctor,
    "models": models,
    "tasks": tasks,
    "judges": judges,
    "verify": verify,
    "cache": cache,
    "cmake-dir": cmake_dir,
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cna", description="Find, prove and steer the few MLP neurons behind a behaviour."
    )
    parser.add_argument("--version", action="version", version=f"cna {_core.version}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.TEXT, description=command.TEXT)
        sub.set_defaults(run=command.run)
        command.options(sub)
    return parser


def _speak_to_any_console() -> None:
    """Characters that a console's encoding lacks become "?"; they must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    _speak_to_any_console()
    parser = build_parser()
    args = parser.parse_args(join_numbers(sys.argv[1:] if argv is None else argv))
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of a pipe has seen enough, such as `head`
        sys.stdout = None  # type: ignore[assignment] # nothing is left to flush to
        return 0
    except (ValueError, IndexError, RuntimeError, OSError, MemoryError) as error:
        print(f"cna {args.command}: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cna {args.command}: stopped", file=sys.stderr)
        return 130
