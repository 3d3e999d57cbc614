"""What form prompts have: text that goes through the chat template, or token ids that may have."""

from __future__ import annotations

import dataclasses
import itertools
import numbers
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ..hosts.model import Model
from ..hosts.tokens import Prompts

Ids = Sequence[Sequence[int]]


def are_ids(prompts: Prompts) -> bool:
    """Whether prompts are lists of token ids, which pass through as they are."""
    first: Any = next(iter(prompts), None)
    if first is None or isinstance(first, (str, bytes, dict)):
        return False
    return isinstance(next(iter(first), None), numbers.Integral)


def chat_of_ids(model: Model, *sets: Ids) -> bool:
    """Whether token ids begin and end as the chat template writes a user's message."""
    if model.tokenizer is None or not model.uses_chat(None):
        return False
    a, b = model.tokenize(["a", "1 b"])
    head, tail = _common(a, b), _common(a[::-1], b[::-1])
    if not head and not tail:
        return False
    rows = [list(row) for row in itertools.chain(*sets)]
    return all(row[: len(head)] == head and row[::-1][: len(tail)] == tail for row in rows)


def require_difference(positive: Ids, negative: Ids, function: str = "discover") -> None:
    """Raises ValueError where the model would see the same prompts, equally often, in both sets."""
    a, b = _shares(positive), _shares(negative)
    if a == b:
        raise ValueError(
            f"{function}: expected two sets of prompts that differ, got the same token ids in both "
            f"({len(a)} different prompts); compare the prompts, and look at what the chat template "
            "makes of them: model.tokenize(prompts)"
        )


@dataclasses.dataclass(frozen=True)
class TwoSets:
    """Two sets of prompts as the model sees them.

    Attributes:
        sides: token ids, positive and negative.
        chat: how other prompts, those of the universal filter, get the same form.
        templated: whether they went through the chat template here.
    """

    sides: tuple[list[list[int]], list[list[int]]]
    chat: bool | None
    templated: bool


def two_sets(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    chat: bool | None,
    function: str = "discover",
) -> TwoSets:
    """Tokenises both sets. Raises ValueError for bad prompts, or two sets that the model sees alike."""
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    require_difference(*sides, function)
    ids = are_ids(positive) and are_ids(negative)
    form = chat_of_ids(model, *sides) if ids and chat is None else chat
    return TwoSets(sides, form, not ids and model.uses_chat(chat))


def _shares(rows: Ids) -> dict[tuple[int, ...], Fraction]:
    return {row: Fraction(n, len(rows)) for row, n in Counter(map(tuple, rows)).items()}


def _common(a: list[int], b: list[int]) -> list[int]:
    """The tokens that both begin with."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return [x for x, _ in same]
