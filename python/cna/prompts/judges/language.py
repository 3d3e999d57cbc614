"""A judge that tells the language of an answer by its function words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import JudgeAll, check_answer, save_json
from .languages import FUNCTION_WORDS, LETTERS
from .speech import plain_quotes, without_quoted

COPIED = 3  # words in a row that an answer shares with its prompt and that are taken for a copy
_WORD = re.compile(r"[^\W\d_]+|[¿¡]")


@dataclass(frozen=True)
class LanguageJudge(JudgeAll):
    """True where the answer is in `language`, whether it is right, sensible and well spelled or not.

    Each different word of the answer is a vote for every language whose function words it is among,
    or one of whose own letters it holds; the language with the most votes wins, `language` in a tie.
    Quoted speech and what the answer copies from its prompt, three words or more at a time, do not
    vote, so that "un bosque en otoño is a Spanish phrase" is English; where the rest settles nothing,
    they do.

    language: ISO 639-1 code; de, en, es, fr, it and pt are known and told apart.
    min_share: votes that the winner needs, as a share of the different words, 0 to 1.
    Text without function words, such as a name or a number, is in no language. Whether a text is
    broken is not judged here: see `cna.sweep`, whose outcome "broken" comes first.
    Raises ValueError for a language that is not known, or a share outside 0 to 1.
    """

    name: str
    language: str
    min_share: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"LanguageJudge: expected a name, got {self.name!r}; name the language"
            )
        if not isinstance(self.language, str) or self.language not in FUNCTION_WORDS:
            raise ValueError(
                f"LanguageJudge: expected a language of {sorted(FUNCTION_WORDS)}, got "
                f"{self.language!r}; pass an identifier of your own to CallableJudge for others"
            )
        share = self.min_share
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(
                f"LanguageJudge: expected min_share between 0 and 1, got {share!r}; it is the share "
                "of words that have to be function words of the language"
            )

    def __call__(self, answer: str, prompt: str | None = None) -> bool:
        """True where `answer` is in the language; what it copies from `prompt` counts last."""
        return self.language_of(answer, prompt) == self.language

    def language_of(self, answer: str, prompt: str | None = None) -> str | None:
        """The code of the language that has the most votes, or None: why the verdict is what it is."""
        text = plain_quotes(check_answer(answer))
        own = without_copies(split(without_quoted(text)), split(plain_quotes(prompt or "")))
        return self._winner(own) or self._winner(split(text))

    def _winner(self, words: list[str]) -> str | None:
        """The language with the most votes, where they are enough; `language` in a tie."""
        different = set(words)
        votes = {code: count(different, code) for code in FUNCTION_WORDS}
        first = max(votes, key=lambda code: (votes[code], code == self.language))
        enough = votes[first] > 0 and votes[first] >= self.min_share * len(different)
        return first if enough else None

    def to_dict(self) -> dict[str, Any]:
        """The judge as JSON-ready values; `from_dict` reads them."""
        return {
            "kind": "language",
            "name": self.name,
            "language": self.language,
            "min_share": self.min_share,
        }

    def save(self, path: str | Path) -> None:
        """Write the judge to a JSON file; `cna.judges.load` reads it."""
        save_json(self.to_dict(), path)


def count(words: set[str], code: str) -> int:
    """How many of `words` are function words of the language or hold a letter of its own."""
    known, letters = FUNCTION_WORDS[code], LETTERS[code]
    return sum(w in known or not letters.isdisjoint(w) for w in words)


def split(text: str) -> list[str]:
    """The words of a text in lower case, and the marks that open a question or an exclamation."""
    return _WORD.findall(text.lower())


def without_copies(words: list[str], prompt: list[str]) -> list[str]:
    """`words` without the runs of three words or more that stand in the prompt."""
    asked = f" {' '.join(prompt)} "
    kept: list[str] = []
    i = 0
    while i < len(words):
        n = 0
        while i + n < len(words) and f" {' '.join(words[i : i + n + 1])} " in asked:
            n += 1
        if n < COPIED:
            n = max(n, 1)
            kept += words[i : i + n]
        i += n
    return kept
