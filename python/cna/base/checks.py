"""Checks of numbers that a user gives, with messages that say what to do."""

from __future__ import annotations

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
