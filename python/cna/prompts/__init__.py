"""What is asked, and how an answer is judged: readers, tasks, judges, a quiz."""

from __future__ import annotations

from . import judges, tasks
from .quiz import Question, draw_questions, read_quiz
from .readers import read_prompts, universal_prompts
from .thoughts import Thoughts, split_thoughts

__all__ = [
    "Question",
    "Thoughts",
    "draw_questions",
    "judges",
    "read_prompts",
    "read_quiz",
    "split_thoughts",
    "tasks",
    "universal_prompts",
]
