"""The shell: `cna` and `python -m cna`, one module per command."""

from __future__ import annotations

from .shell import build_parser, main

__all__ = ["build_parser", "main"]
