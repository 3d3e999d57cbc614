"""A judge that looks for the right answer to the prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base import JudgeAll, check_answer, save_json


@dataclass(frozen=True)
class AnswerJudge(JudgeAll):
    """True where the answer contains a right answer to its prompt, as whole words.

    answers: prompt -> accepted answers (one string or several); an empty list means that no answer
    is right. Case, accents and punctuation do not count. Calling it raises ValueError without a
    prompt or with one that has no entry.
    """

    name: str
    answers: Mapping[str, tuple[str, ...]]
    _by_prompt: dict[str, tuple[str, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __init__(self, name: str, answers: Mapping[str, str | Sequence[str]]) -> None:
        if not isinstance(answers, Mapping) or not answers:
            raise ValueError(
                "AnswerJudge: expected a dict prompt -> accepted answers, got "
                f"{type(answers).__name__} with nothing in it; list the right answers"
            )
        tidy: dict[str, tuple[str, ...]] = {}
        for prompt, right in answers.items():
            accepted = (right,) if isinstance(right, str) else tuple(right)
            if any(not isinstance(a, str) or not words(a).strip() for a in accepted):
                raise ValueError(
                    f"AnswerJudge: expected answers that hold a word, got {list(accepted)!r} for "
                    f"{prompt!r}; write the words that a right answer contains"
                )
            tidy[prompt] = accepted
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "answers", tidy)
        object.__setattr__(
            self, "_by_prompt", {words(p): tuple(map(words, a)) for p, a in tidy.items()}
        )

    def __call__(self, answer: str, prompt: str | None = None) -> bool:
        """True where `answer` contains an accepted answer to `prompt`."""
        check_answer(answer)
        if prompt is None:
            raise ValueError(
                f"{self.name}: expected the prompt with the answer, got no prompt; "
                "call judge(answer, prompt) or judge_all(answers, prompts)"
            )
        accepted = self._by_prompt.get(words(prompt))
        if accepted is None:
            raise ValueError(
                f"{self.name}: expected a prompt with a known right answer, got {prompt!r}; "
                f"add it to the judge's answers ({len(self.answers)} prompts are known)"
            )
        text = words(answer)
        return any(a in text for a in accepted)

    def to_dict(self) -> dict[str, Any]:
        """The judge as JSON-ready values; `from_dict` reads them."""
        return {
            "kind": "answer",
            "name": self.name,
            "answers": {p: list(a) for p, a in self.answers.items()},
        }

    def save(self, path: str | Path) -> None:
        """Write the judge to a JSON file; `cna.judges.load` reads it."""
        save_json(self.to_dict(), path)


def words(text: str) -> str:
    """Lower case, no accents, single spaces, words only, with a space on either side."""
    flat = unicodedata.normalize("NFKD", text)
    flat = "".join(c for c in flat if not unicodedata.combining(c)).casefold()
    return " " + " ".join(re.findall(r"\w+", flat)) + " "
