"""A text and how it goes on, tokenised together and split where the first one's tokens end.

Alone, an ending may get tokens that it never has behind a text: SentencePiece writes " A" as "▁" and
"▁A", behind "Answer:" as "▁A".
"""

from __future__ import annotations

from typing import Any


def encode_text(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    """Token ids of raw text, with one BOS where the tokenizer writes one, and no end token."""
    bos, eos = tokenizer.bos_token, tokenizer.eos_token_id
    special = special and not (bos and text.startswith(bos))
    ids = [int(i) for i in tokenizer(text, add_special_tokens=special)["input_ids"]]
    if special and ids and ids[-1] == eos and not text.endswith(tokenizer.eos_token or "\0"):
        ids.pop()  # a text that goes on has not ended
    return ids


def encode_pair(
    tokenizer: Any, context: str, continuation: str, special: bool = True
) -> tuple[list[int], list[int]]:
    """Token ids of both; spaces between them go with the continuation.

    Args:
        context: text that is not empty.
        special: whether the tokenizer writes its BOS; False where a chat template wrote it.
    """
    stripped = context.rstrip()
    if stripped:
        context, continuation = stripped, context[len(stripped) :] + continuation
    head = encode_text(tokenizer, context, special)
    return head, encode_text(tokenizer, context + continuation, special)[len(head) :]
