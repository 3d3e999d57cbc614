"""`cna cmake-dir`: where the C++ package lies."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "Print the folder of cna's CMake package."


def options(_: argparse.ArgumentParser) -> None:
    """None."""


def run(_: argparse.Namespace) -> int:
    from .. import _core

    # Beside the compiled module: in an editable install that is not where this file is.
    print(Path(_core.__file__).parent / "share" / "cmake" / "cna")
    return 0
