"""Libraries that are imported when they are first used: every command would wait for them else."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["pd", "sparse"]


class _Later:
    """A module that is imported when an attribute of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<module '{self._name}', imported when it is used>"


if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sparse
else:
    pd = _Later("pandas")
    sparse = _Later("scipy.sparse")
