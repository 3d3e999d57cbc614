"""Thoughts: what a model writes between its think tags, apart from the answer that follows them."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .judges import Judge

TAGS = ("<think>", "</think>")


@dataclass(frozen=True)
class Thoughts:
    """A text split at its closing think tag.

    Attributes:
        thoughts: what stands before the closing tag; "" where the model did not think.
        answer: what stands behind it; "" where the thoughts did not end.
        ended: whether the text leaves its thoughts; True where it has none.
    """

    thoughts: str
    answer: str
    ended: bool


def split_thoughts(text: str, tags: tuple[str, str] = TAGS, *, opened: bool = False) -> Thoughts:
    """Splits a text into thoughts and answer.

    A text thinks where it begins with the opening tag, where the prompt ended with it (`opened`), or
    where a closing tag stands in it without an opening one before.

    Raises:
        ValueError: an empty tag.
    """
    first, last = tags
    if not first or not last:
        raise ValueError(
            f"split_thoughts: expected an opening and a closing tag, got {tags!r}; name both"
        )
    begins = text.lstrip().startswith(first)
    body = text.lstrip()[len(first) :] if begins else text
    before, closing, after = body.partition(last)
    if not begins and not opened and (not closing or first in before):
        return Thoughts("", text, True)
    if not closing:
        return Thoughts(body.strip(), "", False)
    return Thoughts(before.strip(), after.lstrip(), True)


def opens_thoughts(tokenizer: Any, ids: Sequence[int], tags: tuple[str, str] = TAGS) -> bool:
    """Whether a prompt, as token ids, ends with the opening tag: its template opened the thoughts."""
    return str(tokenizer.decode(list(ids[-16:]))).rstrip().endswith(tags[0])


def within_budgets(
    tokenizer: Any,
    tokens: Sequence[int],
    opened: bool,
    most_thoughts: int,
    most_answer: int,
    tags: tuple[str, str] = TAGS,
) -> tuple[list[int], int]:
    """(tokens of an answer that fit, how many of them are thoughts), each part within its own budget.

    Thoughts longer than `most_thoughts` are cut there, and have not ended.
    """

    def text(count: int) -> str:
        return str(tokenizer.decode(list(tokens[:count]), skip_special_tokens=True))

    whole = text(len(tokens))
    parts = split_thoughts(whole, tags, opened=opened)
    if parts.ended and parts.answer == whole:  # it does not think
        return list(tokens[:most_answer]), 0
    if not parts.ended:
        return list(tokens[:most_thoughts]), min(len(tokens), most_thoughts)
    ends = bisect.bisect_left(range(len(tokens)), True, key=lambda n: tags[1] in text(n + 1)) + 1
    begins = opened or whole.lstrip().startswith(tags[0])
    if ends > most_thoughts and begins:
        return list(tokens[:most_thoughts]), most_thoughts
    return list(tokens[: ends + most_answer]), ends


def judge_answers(
    judge: Judge, texts: Sequence[str], prompts: Sequence[str], opened: Sequence[bool]
) -> tuple[list[bool], list[Thoughts]]:
    """What a judge says of each answer behind its thoughts, and the split; no answer, no behaviour."""
    parts = [split_thoughts(x, opened=bool(o)) for x, o in zip(texts, opened, strict=True)]
    judged = judge.judge_all([x.answer for x in parts], list(prompts))
    return [x.ended and bool(found) for x, found in zip(parts, judged, strict=True)], parts
