"""What the modules of a model are called whose checkpoint has other names.

Gemma 3 and Llava keep `language_model.model.layers.3.mlp.down_proj` for the module
`model.language_model.layers.3.mlp.down_proj`; an adapter must name the module.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch


def module_names(names: list[str], source: Any, folder: Path) -> dict[str, str]:
    """The module of each down projection that is named as its checkpoint names it.

    Args:
        source: a transformers model, or anything else: then `folder` says which model it is, and
            one without weights is built to look at its names.
    Raises:
        ValueError: a name that fits no module, or several.
    """
    model = source if hasattr(source, "named_modules") else _without_weights(folder)
    if model is None:  # of no class that transformers has: its names are all that is known
        return {name: name for name in names}
    known = [name for name, _ in model.named_modules()]
    return {name: _module_of(name, known, folder) for name in names}


def _module_of(name: str, known: list[str], folder: Path) -> str:
    if name in known:
        return name
    start = [m.start() for m in re.finditer(r"(?<![^.])[^.]+\.\d+\.", name)][-1]
    end = name[start:]  # layers.3.mlp.down_proj
    found = [k for k in known if k == end or k.endswith(f".{end}")]
    if len(found) > 1:  # another tower has such layers too
        words = set(name.split("."))
        best = max(len(words & set(k.split("."))) for k in found)
        found = [k for k in found if len(words & set(k.split("."))) == best]
    if len(found) != 1:
        raise ValueError(
            f"convert: expected one module for the weights '{name}' of '{folder}', got {len(found)} "
            "with such a name; pass the loaded model as source, or use format='hf'"
        )
    return found[0]


def _without_weights(folder: Path) -> Any:
    """The model of a checkpoint on the meta device, None where transformers has no such class."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        names = getattr(config, "architectures", None) or []
        kind = next((c for n in names if (c := getattr(transformers, n, None)) is not None), None)
        if kind is None:
            return None
        with torch.device("meta"):
            return kind(config)
    except (OSError, ValueError, TypeError, KeyError):
        return None
