"""A judge that looks for words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .base import JudgeAll, check_answer, save_json
from .speech import plain_quotes, without_quoted


@dataclass(frozen=True)
class KeywordJudge(JudgeAll):
    """True where one of `patterns` occurs in the answer.

    patterns: substrings, or regular expressions where `regex` is True.
    first_chars: look at this many characters from the start only; None looks at all of them.
    quoted: look inside quoted speech too; False passes over it, as in "I can't," she said.
    Curly apostrophes count as straight ones. Raises ValueError for no patterns, an empty one, or
    one that is no regular expression.
    """

    name: str
    patterns: tuple[str, ...]
    regex: bool = False
    first_chars: int | None = None
    ignore_case: bool = True
    quoted: bool = True
    _compiled: tuple[re.Pattern[str], ...] = field(
        init=False, repr=False, compare=False, default=()
    )

    def __init__(
        self,
        name: str,
        patterns: Iterable[str],
        regex: bool = False,
        first_chars: int | None = None,
        ignore_case: bool = True,
        quoted: bool = True,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"KeywordJudge: expected a name, got {name!r}; name the behaviour")
        if isinstance(patterns, str):
            raise ValueError(
                "KeywordJudge: expected a list of patterns, got one string; put it in a list"
            )
        patterns = tuple(patterns)
        if not patterns or any(not isinstance(p, str) or not p.strip() for p in patterns):
            raise ValueError(
                "KeywordJudge: expected at least one pattern, each a non-empty string, got "
                f"{list(patterns)!r}; list the words that show the behaviour"
            )
        if first_chars is not None and (
            isinstance(first_chars, bool) or not isinstance(first_chars, int) or first_chars < 1
        ):
            raise ValueError(
                f"KeywordJudge: expected first_chars of at least 1 or None, got {first_chars!r}; "
                "None looks at the whole answer"
            )
        flags = re.IGNORECASE if ignore_case else 0
        compiled = []
        for pattern in patterns:
            text = plain_quotes(pattern)
            try:
                compiled.append(re.compile(text if regex else re.escape(text), flags))
            except re.error as error:
                raise ValueError(
                    f"KeywordJudge: expected regular expressions, got {pattern!r} ({error}); "
                    "mend it, or pass regex=False for plain substrings"
                ) from None
        for key, value in (
            ("name", name),
            ("patterns", patterns),
            ("regex", bool(regex)),
            ("first_chars", first_chars),
            ("ignore_case", bool(ignore_case)),
            ("quoted", bool(quoted)),
            ("_compiled", tuple(compiled)),
        ):
            object.__setattr__(self, key, value)

    def __call__(self, answer: str, prompt: str | None = None) -> bool:
        """True where a pattern occurs in `answer`; the prompt plays no part."""
        return self.match(answer) is not None

    def match(self, answer: str) -> str | None:
        """The first pattern that occurs in `answer`, or None: why the verdict is what it is."""
        text = plain_quotes(check_answer(answer))[: self.first_chars]
        text = text if self.quoted else without_quoted(text)
        for pattern, compiled in zip(self.patterns, self._compiled, strict=True):
            if compiled.search(text):
                return pattern
        return None

    def to_dict(self) -> dict[str, Any]:
        """The judge as JSON-ready values; `from_dict` reads them."""
        return {
            "kind": "keyword",
            "name": self.name,
            "patterns": list(self.patterns),
            "regex": self.regex,
            "first_chars": self.first_chars,
            "ignore_case": self.ignore_case,
            "quoted": self.quoted,
        }

    def save(self, path: str | Path) -> None:
        """Write the judge to a JSON file; `cna.judges.load` reads it."""
        save_json(self.to_dict(), path)
