"""The text of an answer as a judge reads it: straight quotation marks, no quoted speech."""

from __future__ import annotations

import re

_MARKS = str.maketrans(
    dict.fromkeys("\u2019\u2018\u02bc", "'") | dict.fromkeys("\u201c\u201d", '"')
)
# A mark opens before a word and behind a gap, and closes behind a word and before a gap, so an
# apostrophe or a mark for inches opens and closes nothing. A single mark closes behind a stop only.
_QUOTED = re.compile(
    r"""(?<![\w"])"(?=\S)[^"]*(?<=\S)"(?!\w)|(?<!\w)'(?=\w)(?:[^'"]|'(?=\w))*[.,!?]'(?!\w)"""
)


def plain_quotes(text: str) -> str:
    """The text with straight apostrophes and quotation marks."""
    return text.translate(_MARKS)


def without_quoted(text: str) -> str:
    """The text (straight marks) without its quoted speech, each piece replaced by a pair of marks.

    A text that is quoted as a whole, and a quotation that is never closed, stay as they are.
    """
    rest = _QUOTED.sub('""', text)
    return rest if re.search(r"\w", rest) else text
