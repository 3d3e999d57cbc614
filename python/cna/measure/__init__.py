"""Strengths and prompts become answers, scores and a table."""

from __future__ import annotations

from .choice import choose
from .intervals import mean_interval
from .length import rate_by_length
from .outcomes import outcome_of, token_quality
from .paired import compare, controls, holm
from .perplexity import fixed_text
from .quiz_score import quiz_accuracy
from .summary import summarise

__all__ = [
    "choose",
    "compare",
    "controls",
    "fixed_text",
    "holm",
    "mean_interval",
    "outcome_of",
    "quiz_accuracy",
    "rate_by_length",
    "summarise",
    "token_quality",
]
