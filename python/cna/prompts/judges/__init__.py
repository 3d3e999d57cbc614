"""Judges: functions that say whether an answer shows a behaviour.

A judge maps one answer (a string, with its prompt where that matters) to True or False; the
behaviour rate of a set of answers is the share judged True. All judges here are plain text rules:
fast, the same on every machine, and wrong now and then. `precision_recall` measures how often,
against labels made by hand.
"""

from __future__ import annotations

from .answer import AnswerJudge
from .base import CallableJudge, Judge
from .files import from_dict, load
from .keyword import KeywordJudge
from .language import LanguageJudge
from .measure import PrecisionRecall, labelled_answers, precision_recall
from .named import get, names

__all__ = [
    "AnswerJudge",
    "CallableJudge",
    "Judge",
    "KeywordJudge",
    "LanguageJudge",
    "PrecisionRecall",
    "from_dict",
    "get",
    "labelled_answers",
    "load",
    "names",
    "precision_recall",
]
