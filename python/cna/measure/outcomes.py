"""The outcome of an answer: the behaviour, another answer, or broken text."""

from __future__ import annotations

from collections.abc import Sequence

from .. import _core

OUTCOMES = ("behaviour", "other", "broken")

# Text whose share of different token pairs is lower counts as broken. Pairs and threshold have the
# largest F1 on the labelled answers to discovery prompts (prompts/data/labelled_discovery.jsonl);
# docs/evaluation.md has precision and recall there and on answers that were not looked at.
BROKEN_BELOW = 0.55


def token_quality(tokens: Sequence[int]) -> float:
    """1 - share of repeated 4-grams of tokens, 0 to 1; 1 for fewer than four tokens."""
    return _core.n_gram_quality(list(tokens))


def distinct_pairs(tokens: Sequence[int]) -> float:
    """1 - share of repeated pairs of neighbouring tokens, 0 to 1; 1 for fewer than two tokens."""
    return _core.n_gram_quality(list(tokens), 2)


def is_broken(text: str, tokens: Sequence[int], finite: bool = True) -> bool:
    """Whether an answer is empty, repeats itself, or has no finite likelihood."""
    return not text.strip() or not finite or distinct_pairs(tokens) < BROKEN_BELOW


def outcome_of(text: str, tokens: Sequence[int], judged: bool, finite: bool = True) -> str:
    """One of `OUTCOMES`; broken text is broken whatever the judge says.

    Args:
        tokens: ids of the answer, as generated.
        judged: whether the judge sees the behaviour in the text.
        finite: whether the likelihood of the answer is a number.
    """
    if is_broken(text, tokens, finite):
        return "broken"
    return "behaviour" if judged else "other"
