"""What is asked, and how an answer is judged: readers, tasks, judges, a quiz."""

from __future__ import annotations

from . import judges, tasks
from .quiz import Question, draw_questions, read_quiz
from .readers import read_prompts, universal_prompts

__all__ = [
    "Question",
    "draw_questions",
    "judges",
    "read_prompts",
    "read_quiz",
    "tasks",
    "universal_prompts",
]
