"""The versions that numbers depend on, for the files that keep numbers."""

from __future__ import annotations

from importlib import metadata

import torch

from .. import _core


def versions() -> dict[str, str]:
    """Of cna, torch and transformers, as they run."""
    return {
        "cna": _core.version,
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }
