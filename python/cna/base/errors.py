"""What an exception of another library says, in one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Its first line with text, else the name of its class."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
