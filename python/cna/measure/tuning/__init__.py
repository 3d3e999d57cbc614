"""Tuning: which ranking, size, depth, operation and strength take a behaviour at little side effect.

discovery prompts -> fit half: circuits -> choice half: answers, KL -> chosen -> evaluation, once
"""

from __future__ import annotations

from .result import TuneResult
from .tune import tune

__all__ = ["TuneResult", "tune"]
