"""Tasks: a behaviour as prompts to find its neurons, other prompts to measure it, and a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..hosts.messages import as_text, is_talk, require_talk
from . import judges
from .readers import read_csv, read_jsonl, read_text

__all__ = ["Task", "load", "names", "read_jailbreakbench"]

_DATA = Path(__file__).with_name("data") / "tasks"
_LABELS = ("positive", "negative", "evaluation", "benign")
_USER_JUDGE = "refusal-13"
_EXAMPLE = 'prompt,label\\n"Wash my car.",positive'


@dataclass(frozen=True)
class Task:
    """A behaviour to find, steer and measure. A prompt is a text or a list of messages.

    positive, negative: discovery prompts that show the behaviour, and matched ones that do not.
    evaluation: other prompts on which the behaviour is expected; its rate is measured here.
    benign: other prompts on which it is not expected, for the rate of false cases; may be empty.
    judge: says whether an answer shows the behaviour.
    source: where the prompts are from.
    chat: as in `model.generate`: None applies the chat template where the model has one, False
    feeds raw text.
    prompt_baseline: an instruction that asks for the effect of steering, which sweeps compare with;
    "" where there is none.
    """

    name: str
    description: str
    positive: list[Any]
    negative: list[Any]
    evaluation: list[Any]
    benign: list[Any] = field(default_factory=list)
    judge: judges.Judge = field(default_factory=lambda: judges.get(_USER_JUDGE))
    source: str = ""
    chat: bool | None = None
    prompt_baseline: str = ""

    def __repr__(self) -> str:
        return (
            f"Task({self.name!r}: {len(self.positive)} positive, {len(self.negative)} negative, "
            f"{len(self.evaluation)} evaluation, {len(self.benign)} benign, "
            f"judge {self.judge.name!r})"
        )


def names() -> list[str]:
    """The names of the built-in tasks."""
    return sorted(path.stem for path in _DATA.glob("*.json"))


def load(name_or_path: str | Path, allow_leak: bool = False) -> Task:
    """Load a built-in task by name, or the user's own from a file or folder.

    name_or_path: one of `names()`; a .csv file with the columns prompt,label; a .jsonl file of
    objects with prompt and label, where prompt may be a list of messages; or a folder with
    positive.txt, negative.txt, evaluation.txt and,
    where wanted, benign.txt, judge.json and prompt_baseline.txt. A label is positive, negative,
    evaluation or benign.
    The judge of a file is judge.json beside it, named <file>.judge.json, else "refusal-13".
    allow_leak: accept discovery prompts that are evaluation prompts too (the rate then flatters).
    Raises FileNotFoundError for a missing file, ValueError for an unknown name, an empty, unreadable
    or wrongly laid out file, an empty set, numbers of positive and negative prompts more than twofold
    apart, one prompt that is both positive and negative, and for a leak.
    """
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path):
        raise ValueError(
            f"tasks.load: expected a name or a path, got {name_or_path!r}; pick one of {names()}"
        )
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in names():
        task = _builtin(name_or_path)
    elif path.is_dir():
        task = _of_folder(path)
    elif path.suffix.lower() in (".csv", ".jsonl") and path.exists():
        task = _of_table(path)
    elif path.exists():
        raise ValueError(
            f"tasks.load: expected a folder or a file ending in .csv or .jsonl, got {str(path)!r}; "
            "write a CSV file with the columns prompt,label"
        )
    elif len(path.parts) > 1 or path.suffix:
        raise FileNotFoundError(
            f"tasks.load: expected a .csv file, a .jsonl file or a folder, got {str(path)!r} (no such "
            "file); check the path"
        )
    else:
        close = get_close_matches(str(name_or_path), names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else "pick a name, or check the path"
        raise ValueError(
            f"tasks.load: expected one of {names()} or a path to a .csv file, a .jsonl file or a "
            f"folder, got {str(name_or_path)!r}; {hint}"
        )
    _check_sets(task, str(name_or_path))
    if not allow_leak:
        _check_leak(task)
    return task


def read_jailbreakbench(path: str | Path) -> list[str]:
    """Read the prompts of the user's own copy of a CSV file in the JBB-Behaviors layout.

    path: a CSV file whose header has the column `Goal`. Returns the goals in the file's order.
    Raises FileNotFoundError for a missing file, ValueError for an empty one or one without that column.
    """
    caller, path = "tasks.read_jailbreakbench", Path(path)
    rows = read_csv(path, caller)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "goal" not in header:
        raise ValueError(
            f"{caller}: expected a CSV file with the column Goal, got the columns "
            f"{rows[0] if rows else []} in {str(path)!r}; pass the file of the behaviours"
        )
    column = header.index("goal")
    goals = [row[column].strip() for row in rows[1:] if column < len(row) and row[column].strip()]
    if not goals:
        raise ValueError(f"{caller}: expected goals, got none in {str(path)!r}; the file is empty")
    return goals


def _builtin(name: str) -> Task:
    values = json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8"))
    judge = values["judge"]
    return Task(
        name=values["name"],
        description=values["description"],
        judge=judges.get(judge) if isinstance(judge, str) else judges.from_dict(judge),
        source=values["source"],
        chat=values["chat"],
        prompt_baseline=values.get("prompt_baseline", ""),
        **{label: list(values[label]) for label in _LABELS},
    )


def _of_folder(folder: Path) -> Task:
    sets: dict[str, list[str]] = {}
    for label in _LABELS:
        file = folder / f"{label}.txt"
        if not file.exists():
            if label == "benign":
                sets[label] = []
                continue
            raise FileNotFoundError(
                f"tasks.load: expected positive.txt, negative.txt and evaluation.txt, got the "
                f"folder {str(folder)!r} without {file.name}; write one prompt a line"
            )
        text = read_text(file, "tasks.load")
        sets[label] = [line.strip() for line in text.splitlines() if line.strip()]
    own = folder / "judge.json"
    asked = folder / "prompt_baseline.txt"
    text = read_text(asked, "tasks.load").strip() if asked.exists() else ""
    task = _user_task(folder, folder.resolve().name, sets, own)
    return replace(task, prompt_baseline=text)


def _of_table(path: Path) -> Task:
    if path.suffix.lower() == ".csv":
        rows = _rows_of_csv(path)
    else:
        rows = _rows_of_jsonl(path)
    if not rows:
        raise ValueError(
            f"tasks.load: expected prompts, got the empty file {str(path)!r}; write e.g. {_EXAMPLE}"
        )
    sets: dict[str, list[Any]] = {label: [] for label in _LABELS}
    for where, prompt, label in rows:
        tidy = label.strip().lower() if isinstance(label, str) else label
        if tidy not in _LABELS:
            raise ValueError(
                f"tasks.load: expected a label of {', '.join(_LABELS)}, got {label!r} in {where} "
                f"of {str(path)!r}; correct the label"
            )
        if isinstance(prompt, list) and is_talk(prompt):
            require_talk(prompt, len(sets[tidy]))
            sets[tidy].append(prompt)
            continue
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(
                f"tasks.load: expected a prompt with text, got {prompt!r} in {where} of "
                f"{str(path)!r}; fill it in or delete the row"
            )
        sets[tidy].append(prompt.strip())
    return _user_task(path, path.stem, sets, path.with_suffix(".judge.json"))


def _rows_of_csv(path: Path) -> list[tuple[str, object, object]]:
    rows = read_csv(path, "tasks.load")
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    if "prompt" not in header or "label" not in header:
        raise ValueError(
            f"tasks.load: expected the columns prompt,label, got the columns {rows[0]} in "
            f"{str(path)!r}; write e.g. {_EXAMPLE}"
        )
    p, at = header.index("prompt"), header.index("label")
    found: list[tuple[str, object, object]] = []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise ValueError(
                f"tasks.load: expected {len(header)} cells a row, got {len(row)} in data row "
                f"{number} of {str(path)!r}; quote prompts that hold a comma"
            )
        found.append((f"data row {number}", row[p], row[at]))
    return found


def _rows_of_jsonl(path: Path) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = []
    for number, value in read_jsonl(path, "tasks.load"):
        if not isinstance(value, dict) or "prompt" not in value or "label" not in value:
            raise ValueError(
                f"tasks.load: expected objects with prompt and label, got line {number} of "
                f'{str(path)!r} otherwise; write e.g. {{"prompt": "Wash my car.", '
                '"label": "positive"}'
            )
        found.append((f"line {number}", value["prompt"], value["label"]))
    return found


def _user_task(path: Path, name: str, sets: Mapping[str, list[Any]], own: Path) -> Task:
    judge: judges.Judge = judges.load(own) if own.exists() else judges.get(_USER_JUDGE)
    return Task(
        name=name,
        description=f"The user's own task, read from {path.name}.",
        judge=judge,
        source=str(path),
        positive=sets["positive"],
        negative=sets["negative"],
        evaluation=sets["evaluation"],
        benign=sets["benign"],
    )


def _check_sets(task: Task, where: str) -> None:
    for label in ("positive", "negative", "evaluation"):
        if not getattr(task, label):
            raise ValueError(
                f"tasks.load: expected at least one {label} prompt, got none in {where!r}; "
                f"add prompts of the label {label}"
            )
    n, m = len(task.positive), len(task.negative)
    if max(n, m) > 2 * min(n, m):
        raise ValueError(
            f"tasks.load: expected positive and negative prompts in similar numbers, got {n} "
            f"positive and {m} negative in {where!r}; even them out (at most twofold apart)"
        )
    negative = {_normal(p) for p in task.negative}
    for prompt in task.positive:
        if _normal(prompt) in negative:
            raise ValueError(
                f"tasks.load: expected positive and negative prompts to differ, got {prompt!r} in "
                f"both in {where!r}; give it one label"
            )


def _normal(prompt: Any) -> str:
    return " ".join(as_text(prompt).casefold().split())


def _check_leak(task: Task) -> None:
    measured = {_normal(p): "benign" for p in task.benign}
    measured.update({_normal(p): "evaluation" for p in task.evaluation})
    leaks = _leaks(task.positive, "positive", measured) + _leaks(
        task.negative, "negative", measured
    )
    if leaks:
        prompt, label, other = leaks[0]
        raise ValueError(
            f"tasks.load: expected discovery and evaluation prompts to differ, got {prompt!r} as "
            f"{label} and as {other} ({len(leaks)} such); remove it from one of them, or pass "
            "allow_leak=True"
        )


def _leaks(
    prompts: Sequence[Any], label: str, measured: Mapping[str, str]
) -> list[tuple[Any, str, str]]:
    return [(p, label, measured[_normal(p)]) for p in prompts if _normal(p) in measured]
