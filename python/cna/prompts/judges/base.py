"""What every judge offers, and a judge from any function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Judge(Protocol):
    """What every judge offers: a name, a verdict on one answer, and verdicts on many."""

    @property
    def name(self) -> str:
        """Short name, shown in tables."""
        ...

    def __call__(self, answer: str, prompt: str | None = None) -> bool:
        """True where `answer` (given to `prompt`) shows the behaviour."""
        ...

    def judge_all(self, answers: Sequence[str], prompts: Sequence[str] | None = None) -> list[bool]:
        """One verdict per answer."""
        ...


class JudgeAll:
    """Gives a judge of single answers its `judge_all`."""

    def judge_all(self, answers: Sequence[str], prompts: Sequence[str] | None = None) -> list[bool]:
        """Judge every answer [n], with its prompt [n] where given; returns n verdicts.

        Raises ValueError where `prompts` and `answers` differ in number or `answers` is one string.
        """
        if isinstance(answers, str) or isinstance(prompts, str):
            raise ValueError(
                "judge_all: expected lists of strings, got one string; put it in a list"
            )
        answers = list(answers)
        paired: list[str | None] = [None] * len(answers) if prompts is None else list(prompts)
        if len(paired) != len(answers):
            raise ValueError(
                f"judge_all: expected one prompt per answer, got {len(paired)} prompts for "
                f"{len(answers)} answers; pass the prompts the answers were made from"
            )
        return [self(a, p) for a, p in zip(answers, paired, strict=True)]  # type: ignore[operator]


@dataclass(frozen=True)
class CallableJudge(JudgeAll):
    """A judge from a function of the answer, or of the answer and its prompt.

    function: called with (answer, prompt) where `needs_prompt` is True, else with (answer,).
    """

    name: str
    function: Callable[..., object]
    needs_prompt: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(
                f"CallableJudge: expected a function, got {type(self.function).__name__}; "
                "pass e.g. lambda answer: 'sorry' in answer"
            )

    def __call__(self, answer: str, prompt: str | None = None) -> bool:
        """The function's verdict on `answer`, as True or False."""
        check_answer(answer)
        return bool(self.function(answer, prompt) if self.needs_prompt else self.function(answer))


def check_answer(answer: object) -> str:
    """The answer itself; raises ValueError where it is no string."""
    if not isinstance(answer, str):
        raise ValueError(
            f"judge: expected an answer (str), got {type(answer).__name__}; "
            "judge a list with judge_all"
        )
    return answer


def save_json(values: dict[str, Any], path: str | Path) -> None:
    """Writes values to a JSON file."""
    Path(path).write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
