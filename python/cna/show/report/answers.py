"""Answers before and after, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from ..plots.tables import is_unsteered
from .settings import Setting, matches, setting_name, setting_of

_EXAMPLES = 8
_BADGES = {
    True: "<span class='badge yes'>behaviour</span>",
    False: "<span class='badge no'>no behaviour</span>",
}


def answers_html(answers: pd.DataFrame | None, chosen: Mapping[str, Setting]) -> str:
    """The first answers of each set, unsteered beside steered, as cards."""
    if answers is None:
        return ""
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
        return ""
    out = []
    sets = list(dict.fromkeys(answers["set"])) if "set" in answers else [""]
    for name in sets:
        cards = _cards(columns, name)
        if not cards:
            continue
        heading = {
            "evaluation": "Prompts on which the behaviour is expected",
            "benign": "Benign prompts",
        }.get(name, name)
        out.append((f"<h3>{escape(heading)}</h3>" if heading else "") + cards)
    note = f"<p class='note'>The first {_EXAMPLES} prompts of each set, in order, not picked.</p>"
    return note + "".join(out)


def _cards(columns: Sequence[tuple[str, pd.DataFrame]], name: str) -> str:
    """One card per prompt with the answer of every column (title, rows) to it."""
    found: list[tuple[str, dict[str, tuple[str, str]]]] = []
    for title, rows in columns:
        part = rows[rows["set"] == name] if "set" in rows else rows
        hits = part["hit"] if "hit" in part else [""] * len(part)
        by_prompt: dict[str, tuple[str, str]] = {}
        for prompt, answer, hit in zip(part["prompt"], part["answer"], hits, strict=True):
            by_prompt.setdefault(prompt, (answer, hit))
        found.append((title, by_prompt))
    prompts = list(dict.fromkeys(p for _, answers in found for p in answers))[:_EXAMPLES]
    cards = []
    for prompt in prompts:
        cells = []
        for title, answers in found:
            if prompt not in answers:
                continue
            answer, hit = answers[prompt]
            shows = {"true": True, "1": True, "1.0": True, "false": False, "0": False}.get(
                str(hit).strip().lower()
            )
            badge = "" if shows is None else _BADGES[shows]
            text = escape(answer) if answer.strip() else "<i>(empty answer)</i>"
            cells.append(
                f"<div class='answer'><div class='who'>{escape(title)} {badge}</div>"
                f"<div class='text'>{text}</div></div>"
            )
        cards.append(
            f"<article><div class='prompt'>{escape(prompt)}</div>"
            f"<div class='answers'>{''.join(cells)}</div></article>"
        )
    return "".join(cards)


def answered_settings(answers: pd.DataFrame) -> list[Setting]:
    """Where no table says what to show: the answers of CNA, ablated if there."""
    steered = answers[~is_unsteered(answers)]
    cna = steered[steered["method"] == "cna"]
    rows = cna if len(cna) else steered
    rows = rows.assign(_zero=(rows["strength"] != 0)).sort_values("_zero", kind="stable")
    return [setting_of(rows.iloc[0])] if len(rows) else []
