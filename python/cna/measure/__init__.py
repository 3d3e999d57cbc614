"""Strengths and prompts become answers, scores and a table."""

from __future__ import annotations

from .quality import fixed_text, mean_interval
from .quiz_score import quiz_accuracy
from .summary import summarise

__all__ = ["fixed_text", "mean_interval", "quiz_accuracy", "summarise"]
