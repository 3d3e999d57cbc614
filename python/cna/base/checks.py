"""Checks of numbers and arguments that a user gives, with messages that say what to do."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether it is a whole number: 3 or 3.0, but no True and no text."""
    try:
        return not isinstance(value, (bool, str)) and value == int(value)
    except (TypeError, ValueError, OverflowError):
        return False


def whole_number(value: Any, least: int, name: str, function: str) -> int:
    """A whole number of at least `least`; ValueError otherwise."""
    if not is_whole(value) or value < least:
        raise ValueError(
            f"{function}: expected {name} to be a whole number of {least} or more, got {value!r}; "
            "choose another"
        )
    return int(value)


def require_known(function: str, unknown: Iterable[str], takes: Callable[..., Any]) -> None:
    """ValueError for arguments that `takes` caught in its **kwargs: misspelt, or another's."""
    for name in sorted(unknown):
        known = [
            known
            for known, p in inspect.signature(takes).parameters.items()
            if p.kind is not p.VAR_KEYWORD and known != "self"
        ]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "leave it out"
        raise ValueError(
            f"{function}: expected arguments among {', '.join(known)}, got '{name}'; {hint}"
        )
