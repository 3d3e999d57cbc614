"""Strengths and prompts become answers, scores and a table."""

from __future__ import annotations

from .intervals import mean_interval
from .perplexity import fixed_text
from .quiz_score import quiz_accuracy
from .summary import summarise

__all__ = ["fixed_text", "mean_interval", "quiz_accuracy", "summarise"]
