"""What the paper prints and its authors logged, as data."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from ..hosts.model import Model


@functools.cache
def paper() -> dict[str, Any]:
    """What the paper prints and its authors logged (prompts/data/paper.json); rates are 0 to 1."""
    text = resources.files("cna.prompts").joinpath("data/paper.json").read_text(encoding="utf-8")
    return json.loads(text)


def paper_entry(model: Model) -> tuple[str | None, dict[str, Any]]:
    """The paper's name and numbers of a model, by its id and shape; (None, {}) for any other."""
    name = model.model_id.rstrip("/").rsplit("/", 1)[-1].casefold().replace("_", "-")
    name = name.removeprefix("meta-")
    for known, entry in paper()["models"].items():
        shape = (entry["n_layers"], entry["width"])
        if known.casefold() == name and shape == (model.n_layers, model.width):
            return known, entry
    return None, {}
