"""Answers before and after, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ...base.html import render
from ...base.later import pd
from ...measure.kinds import is_unsteered
from .settings import Setting, matches, setting_name, setting_of

_EXAMPLES = 8
_SHOWS = {"true": True, "1": True, "1.0": True, "false": False, "0": False}
_OUTCOMES = {"behaviour": True, "other": False, "broken": "broken text"}
_HEADINGS = {
    "evaluation": "Prompts on which the behaviour is expected",
    "benign": "Benign prompts",
}


def answers_html(answers: pd.DataFrame | None, chosen: Mapping[str, Setting]) -> Markup:
    """The first answers of each set, unsteered beside steered, as cards."""
    if answers is None:
        return Markup()
    answers = answers.dropna(subset=["strength"])
    columns: list[tuple[str, pd.DataFrame]] = []
    plain = answers[is_unsteered(answers)]
    if len(plain):
        columns.append(("Unsteered", plain))
    wanted = list(chosen.values()) or answered_settings(answers)
    for setting in wanted:
        rows = answers[matches(answers, setting)]
        if len(rows):
            columns.append((setting_name(setting), rows))
    if not columns:
        return Markup()
    sets = list(dict.fromkeys(answers["set"])) if "set" in answers else [""]
    groups = [(_HEADINGS.get(name, name), _cards(columns, name)) for name in sets]
    return render("show/answers", groups=groups, examples=_EXAMPLES)


def _cards(columns: Sequence[tuple[str, pd.DataFrame]], name: str) -> list[dict[str, Any]]:
    """One card per prompt with the answer of every column (title, rows) to it."""
    found: list[tuple[str, dict[str, tuple[str, str]]]] = []
    for title, rows in columns:
        part = rows[rows["set"] == name] if "set" in rows else rows
        seen = part["outcome"] if "outcome" in part else part.get("hit", [""] * len(part))
        by_prompt: dict[str, tuple[str, str]] = {}
        for prompt, answer, shows in zip(part["prompt"], part["answer"], seen, strict=True):
            by_prompt.setdefault(prompt, (answer, shows))
        found.append((title, by_prompt))
    prompts = list(dict.fromkeys(p for _, answers in found for p in answers))[:_EXAMPLES]
    cards = []
    for prompt in prompts:
        cells = []
        for title, answers in found:
            if prompt in answers:
                text, seen = answers[prompt]
                word = str(seen).strip().lower()
                shows = _OUTCOMES.get(word, _SHOWS.get(word))
                cells.append({"title": title, "text": text, "shows": shows})
        cards.append({"prompt": prompt, "answers": cells})
    return cards


def answered_settings(answers: pd.DataFrame) -> list[Setting]:
    """Where no table says what to show: the answers of CNA, ablated if there."""
    steered = answers[~is_unsteered(answers)]
    cna = steered[steered["method"] == "cna"]
    rows = cna if len(cna) else steered
    rows = rows.assign(_zero=(rows["strength"] != 0)).sort_values("_zero", kind="stable")
    return [setting_of(rows.iloc[0])] if len(rows) else []
