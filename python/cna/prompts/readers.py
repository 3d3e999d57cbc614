"""Prompt sets: readers for the user's own files, and the diverse set for the universal filter."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..base.files import require_file
from ..hosts.messages import is_talk, require_talk

__all__ = ["read_csv", "read_jsonl", "read_prompts", "read_text", "universal_prompts"]

_DATA = Path(__file__).with_name("data")
_SUFFIXES = (".txt", ".csv", ".jsonl")


class Evaluated(Protocol):
    """What has prompts to measure on, such as a Task."""

    @property
    def evaluation(self) -> Sequence[Any]: ...


def read_text(path: Path, caller: str) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped); errors in the name of `caller`.

    Raises FileNotFoundError where the file is missing, ValueError where it is a folder or not UTF-8.
    """
    require_file(path, caller)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{caller}: expected UTF-8 text, got {str(path)!r} with another encoding "
            f"(byte {error.start}); save the file as UTF-8"
        ) from None


def read_csv(path: Path, caller: str) -> list[list[str]]:
    """The rows of a CSV file that hold any text; ValueError in the name of `caller`."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, caller), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{caller}: expected a CSV file, got {str(path)!r} ({error}); "
            'quote cells that hold commas or quotes: "..."'
        ) from None
    return [row for row in rows if any(cell.strip() for cell in row)]


def read_jsonl(path: Path, caller: str) -> list[tuple[int, object]]:
    """(line number, value) of every JSON line; ValueError in the name of `caller`."""
    values: list[tuple[int, object]] = []
    for number, line in enumerate(read_text(path, caller).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{caller}: expected one JSON value a line, got {str(path)!r} line {number} "
                f"({error}); mend the line"
            ) from None
    return values


def read_prompts(source: str | Path | Evaluated | Sequence[Any]) -> list[Any]:
    """Read a list of prompts.

    source: a .txt file (one prompt a line, blank lines ignored), a .csv file (the column `prompt`,
    or the only column; the first row is the header where it says `prompt`), a .jsonl file (strings,
    lists of messages, or objects with one of these as `prompt`), a Task (its evaluation prompts), or a
    list of strings or of lists of messages (checked and copied).
    Returns the prompts in the file's order. Raises FileNotFoundError for a missing file, ValueError
    for an empty, unreadable or wrongly laid out one.
    """
    caller = "read_prompts"
    if not isinstance(source, (str, Path)):
        found = list(getattr(source, "evaluation", source))  # type: ignore[arg-type]
        if not found or not all(_is_prompt(p, i) for i, p in enumerate(found)):
            raise ValueError(
                f"{caller}: expected at least one prompt, each a string with text, got "
                f"{len(found)} items; check the list"
            )
        return found
    path = Path(source)
    suffix = path.suffix.lower()
    if path.exists() and not path.is_dir() and suffix not in _SUFFIXES:
        raise ValueError(
            f"{caller}: expected a file ending in {', '.join(_SUFFIXES)}, got {str(path)!r}; "
            "save the prompts as text, one a line, in a .txt file"
        )
    if suffix == ".csv":
        prompts = _prompts_of_csv(path, caller)
    elif suffix == ".jsonl":
        prompts = _prompts_of_jsonl(path, caller)
    else:
        prompts = [line.strip() for line in read_text(path, caller).splitlines() if line.strip()]
    if not prompts:
        raise ValueError(
            f"{caller}: expected at least one prompt, got none in {str(path)!r}; "
            "the file is empty or blank"
        )
    return prompts


def _prompts_of_csv(path: Path, caller: str) -> list[str]:
    rows = read_csv(path, caller)
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    if "prompt" in header:
        column, rows = header.index("prompt"), rows[1:]
    elif all(len(row) == 1 for row in rows):
        column = 0
    else:
        raise ValueError(
            f"{caller}: expected a column named prompt, or one column only, got the columns "
            f"{rows[0]} in {str(path)!r}; name the column of the prompts 'prompt'"
        )
    found = [row[column].strip() if column < len(row) else "" for row in rows]
    if "" in found:
        raise ValueError(
            f"{caller}: expected a prompt in every row, got none in data row "
            f"{found.index('') + 1} of {str(path)!r}; fill the cell or delete the row"
        )
    return found


def _is_prompt(prompt: Any, place: int) -> bool:
    """Whether this is a text or a list of messages; ValueError for malformed messages."""
    if not isinstance(prompt, (str, bytes)) and is_talk(prompt):
        require_talk(prompt, place)
        return True
    return isinstance(prompt, str) and bool(prompt.strip())


def _prompts_of_jsonl(path: Path, caller: str) -> list[Any]:
    prompts: list[Any] = []
    for number, value in read_jsonl(path, caller):
        prompt = value.get("prompt") if isinstance(value, dict) else value
        if not _is_prompt(prompt, len(prompts)):
            raise ValueError(
                f"{caller}: expected a string or an object with a string 'prompt', got line "
                f"{number} of {str(path)!r} otherwise; mend the line"
            )
        prompts.append(prompt)
    return prompts


def universal_prompts() -> list[str]:
    """The default diverse prompts (32) by which universal neurons are found.

    Facts, letters, poems, dialogue, arithmetic, code, data and several languages: a neuron that is
    among the strongest on nearly all of them serves no single behaviour.
    """
    return read_prompts(_DATA / "universal_prompts.txt")
