"""Public module paths that are shorter than the places they name: `cna.convert` is cna.ship.

One table. A name gives the very module of its place, imported on first use.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

PLACES = {
    "arms": "measure.arms",
    "convert": "ship",
    "display": "show.display",
    "distributed": "many",
    "doctor": "cli.doctor",
    "judges": "prompts.judges",
    "lm_eval": "measure.lm_eval",
    "loading": "hosts.loading",
    "metrics": "measure",
    "neurons": "analysis.cards",
    "plots": "show.plots",
    "ranks": "many.ranks",
    "report": "show.report",
    "reproduce": "paper",
    "steering": "circuits",
    "sweep": "measure.sweep",
    "tasks": "prompts.tasks",
}


class _Loader(importlib.abc.InspectLoader):
    """Gives the module of a place; `get_code` is for `python -m`."""

    def __init__(self, place: ModuleSpec) -> None:
        self.place = place

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self.place.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.place  # the import of the name has put its own there

    def get_code(self, fullname: str) -> CodeType | None:
        loader: Any = self.place.loader
        return loader.get_code(self.place.name)

    def get_source(self, fullname: str) -> str | None:
        loader: Any = self.place.loader
        return loader.get_source(self.place.name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        first, dot, rest = name.partition(".")
        if package != "cna" or first not in PLACES:
            return None
        place = importlib.util.find_spec(f"cna.{PLACES[first]}{dot}{rest}")
        return place and ModuleSpec(fullname, _Loader(place), origin=place.origin)


def register() -> None:
    """Makes the names importable; called once, when `cna` has imported what it needs itself.

    Modules that are there already get their names now, so that a later import of, say,
    `cna.convert` does not put the module where the function of that name is.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # first: the parents' folders would be searched else
    for name, place in PLACES.items():
        if f"cna.{place}" in sys.modules:
            sys.modules[f"cna.{name}"] = sys.modules[f"cna.{place}"]
