"""The built-in judges, by name."""

from __future__ import annotations

from difflib import get_close_matches

from .keyword import KeywordJudge
from .language import LanguageJudge
from .patterns import CAPABILITY, LIST_ITEM, PLURAL_VERB, REFUSAL_13, REFUSAL_31

_NAMED: dict[str, KeywordJudge | LanguageJudge] = {
    judge.name: judge
    for judge in (
        KeywordJudge("capability-refusal", CAPABILITY, regex=True, quoted=False),
        KeywordJudge("refusal-13", REFUSAL_13, regex=True, first_chars=500, quoted=False),
        KeywordJudge("refusal-31", REFUSAL_31, quoted=False),
        KeywordJudge("plural-verb", PLURAL_VERB, regex=True),
        KeywordJudge("list", LIST_ITEM, regex=True),
        LanguageJudge("spanish", "es"),
    )
}


def names() -> list[str]:
    """The names `get` knows."""
    return sorted(_NAMED)


def get(name: str) -> KeywordJudge | LanguageJudge:
    """A built-in judge by name.

    capability-refusal: the answer says that the model cannot do it (no body, access or live data).
    refusal-13: declining of any kind, 13 regular expressions on the first 500 characters.
    refusal-31: declining of any kind, 31 substrings anywhere.
    plural-verb: the answer continues a sentence with a plural verb form (are, were, have, do).
    list: a line of the answer begins with a bullet or a number, as an item of a list does.
    spanish: the answer is in Spanish, by its function words.
    The first three pass over quoted speech. The two refusal sets have the scope of the two keyword
    judges in the authors' released code (arXiv 2605.12290); the patterns are this library's own.
    Raises ValueError for another name.
    """
    if name in _NAMED:
        return _NAMED[name]
    close = get_close_matches(str(name), _NAMED, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else "pick one of them"
    raise ValueError(f"judges.get: expected one of {names()}, got {name!r}; {hint}")
