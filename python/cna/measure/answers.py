"""Answers of a sweep: batched over arms and prompts, kept in a file as they are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.files import append_lines, require_folder
from ..base.later import pd
from ..base.log import note
from ..base.progress import bar
from ..hosts.messages import as_text, behind, question
from ..hosts.model import Model
from ..prompts.thoughts import opens_thoughts, within_budgets
from .arm import Arm
from .marks import mark

Done = tuple[str, str, int]  # the mark of an arm, the set of a prompt, its place


class AnswerLog:
    """Finished answers in a JSON-lines file; a line cut short by a kill is dropped on reading."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.done: dict[Done, list[int]] = {}
        if path is None:
            return
        require_folder(path.parent, "sweep")
        if path.exists():
            self._read(path, fingerprint)
        else:
            self._append([json.dumps({"fingerprint": fingerprint})])

    def _read(self, path: Path, fingerprint: str) -> None:
        raw = path.read_bytes()
        whole, _, rest = raw.rpartition(b"\n")
        if rest:  # cut off in the middle of a line: keep what is whole
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        lines = whole.decode("utf-8").splitlines() if whole else []
        if not lines:
            self._append([json.dumps({"fingerprint": fingerprint})])
            return
        try:
            head, *rows = [json.loads(line) for line in lines]
            done = {(row["arm"], row["set"], row["index"]): row["tokens"] for row in rows}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"sweep: expected finished answers in '{path}', got a damaged line; move the file away "
                "to start anew"
            ) from None
        if not isinstance(head, dict) or head.get("fingerprint") != fingerprint:
            raise ValueError(
                f"sweep: expected '{path}' to belong to this run, got answers of another model, "
                "circuit, task or setting; choose another folder"
            )
        self.done = done

    def _append(self, lines: list[str]) -> None:
        if self.path is not None:
            append_lines(self.path, lines, "sweep")

    def add(self, rows: Sequence[tuple[Done, list[int]]]) -> None:
        """Appends finished rows in one write."""
        self._append(
            [json.dumps({"arm": a, "set": s, "index": i, "tokens": t}) for (a, s, i), t in rows]
        )
        self.done.update(rows)


Places = dict[tuple[str, str], list[list[int]]]  # (an arm's own instruction, set) -> token ids
Job = tuple[Arm, str, int]  # arm, set, index of the prompt


def prompt_ids(
    model: Model, arms: Sequence[Arm], prompts: dict[str, list[Any]], chat: bool | None
) -> Places:
    """Token ids of every prompt, behind each instruction that an arm puts before it."""
    return {
        (prefix, name): model.tokenize([behind(prefix, prompt) for prompt in texts], chat)
        for prefix in dict.fromkeys(arm.prefix for arm in arms)
        for name, texts in prompts.items()
        if texts
    }


def jobs_of(arms: Sequence[Arm], prompts: dict[str, list[Any]]) -> list[Job]:
    """Every answer that a sweep needs."""
    return [
        (arm, name, i)
        for arm in arms
        for name, texts in prompts.items()
        for i in range(len(texts))
        if arm.answers(name, i)
    ]


def answer_jobs(
    model: Model,
    jobs: Sequence[Job],
    ids: Places,
    *,
    max_new_tokens: int,
    batch_size: int,
    log: AnswerLog,
    progress: bool = True,
    marks: Mapping[str, str] | None = None,
) -> None:
    """Greedy answers of (arm, set, index) jobs, batch by batch into the log.

    `marks`: by the arms' keys, where another process names them; see `measure.marks`.
    """
    arms = list({arm.key: arm for arm, _, _ in jobs}.values())
    names = [marks[arm.key] if marks else mark(arm) for arm in arms]
    number = {arm.key: i for i, arm in enumerate(arms)}
    places = [(prefix, name, i) for prefix, name in ids for i in range(len(ids[prefix, name]))]
    row = {place: i for i, place in enumerate(places)}
    intervention, _ = model._steering(1)

    def keep(done: list[tuple[int, int]], answers: list[list[int]]) -> None:
        finished = [(names[arm], *places[prompt][1:]) for arm, prompt in done]
        log.add(list(zip(finished, answers, strict=True)))

    with bar("sweep", progress, "answer") as update:
        model.core.answer_jobs(
            [arm.intervention for arm in arms],
            [ids[prefix, name][i] for prefix, name, i in places],
            [(number[arm.key], row[arm.prefix, name, i]) for arm, name, i in jobs],
            max_new_tokens,
            keep,
            intervention=intervention,
            batch_rows=batch_size,
            progress=update,
        )


def _say_what_is_not_used(log: AnswerLog, marks: Mapping[str, str]) -> None:
    """Finished answers of an arm of the same name that does something else: kept, and said."""
    mine = set(marks.values())
    other = {m.rpartition("|")[0] for m, _, _ in log.done if m not in mine} & marks.keys()
    if other:
        note(
            f"sweep: '{log.path}' holds answers of {', '.join(sorted(other))} with other neurons or "
            "vectors; they are left there, and made anew for this run"
        )


def generate_answers(
    model: Model,
    arms: Sequence[Arm],
    prompts: dict[str, list[Any]],
    *,
    chat: bool | None,
    max_new_tokens: int,
    max_thought_tokens: int | None = None,
    batch_size: int,
    log: AnswerLog,
    progress: bool = True,
) -> pd.DataFrame:
    """Greedy answers of every arm to its prompts, batched over both; finished ones are reused."""
    jobs = jobs_of(arms, prompts)
    marks = {arm.key: mark(arm) for arm in arms}
    _say_what_is_not_used(log, marks)
    ids = prompt_ids(model, arms, prompts, chat)
    answer_jobs(
        model,
        [(arm, name, i) for arm, name, i in jobs if (marks[arm.key], name, i) not in log.done],
        ids,
        max_new_tokens=max_new_tokens + (max_thought_tokens or 0),
        batch_size=batch_size,
        log=log,
        progress=progress,
        marks=marks,
    )
    rows = []
    for arm, name, i in jobs:
        tokens, thinking = log.done[marks[arm.key], name, i], 0
        opened = opens_thoughts(model.tokenizer, ids[arm.prefix, name][i])
        if max_thought_tokens is not None:
            budgets = max_thought_tokens, max_new_tokens
            tokens, thinking = within_budgets(model.tokenizer, tokens, opened, *budgets)
        rows.append(
            {
                "method": arm.method,
                "kind": arm.kind,
                "layer": arm.layer,
                "strength": arm.strength,
                "draw": arm.draw,
                "arm": arm.key,
                "set": name,
                "index": i,
                "prompt": as_text(prompts[name][i]),
                "question": question(prompts[name][i]),
                "answer": model.decode(tokens),
                "tokens": tokens,
                "n_thought_tokens": thinking,
                "opened": opened,
            }
        )
    frame = pd.DataFrame(rows)
    for column in ("layer", "draw"):
        frame[column] = frame[column].astype("Int64")
    return frame
