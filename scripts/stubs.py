"""Writes python/cna/_core.pyi: what C++ binds, then the methods that Python adds to circuits."""

from __future__ import annotations

import sys
from pathlib import Path

from cna import _core
from cna.ship.circuit_methods import METHODS
from pybind11_stubgen import main

ADDED = """    # from cna.ship.circuit_methods, which has their arguments
{methods}
"""


def added() -> str:
    lines = []
    for name, method in METHODS.items():
        static = isinstance(method, staticmethod)
        lines += ["    @staticmethod"] if static else []
        own = "" if static else "self, "
        lines.append(
            f"    def {name}({own}*args: typing.Any, **kwargs: typing.Any) -> typing.Any: ..."
        )
    return ADDED.format(methods="\n".join(lines))


for name in METHODS:
    delattr(_core.Circuit, name)
out = Path(".build/stubs")
main(["cna._core", "-o", str(out), "--ignore-all-errors"])
text = (out / "cna" / "_core.pyi").read_text()
start = text.index("class Circuit:")
end = text.index("\nclass ", start) + 1
Path("python/cna/_core.pyi").write_text(text[:end] + added() + text[end:])
sys.exit(0)
