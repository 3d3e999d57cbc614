"""A stream: the text of answers, piece by piece, while they are written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

_HELD = "\ufffd"  # a character of which not all bytes are there yet


class _Left(Exception):
    """The reader has gone."""


def pieces(
    run: Callable[..., Any], decode: Callable[[list[int]], str], several: bool
) -> Iterator[Any]:
    """Pieces of text as they are written; of several prompts, (number of the prompt, piece).

    The run begins with the first piece that is asked for, on a thread of its own, and ends where the
    reader stops. What it raises, the reader gets.

    Args:
        run: takes on_token(prompt, token).
        decode: token ids of an answer -> text.
    """
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left = threading.Event()

    def on_token(prompt: int, token: int) -> None:
        if left.is_set():
            raise _Left
        events.put((prompt, token))

    def work() -> None:
        try:
            run(on_token=on_token)
            events.put(None)
        except BaseException as error:  # the reader's thread is where it belongs
            events.put(error)

    thread = threading.Thread(target=work, name="cna-stream", daemon=True)
    thread.start()
    tokens: dict[int, list[int]] = {}
    shown: dict[int, str] = {}
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            prompt, token = event
            tokens.setdefault(prompt, []).append(token)
            text = decode(tokens[prompt])
            if not text.endswith(_HELD) and (piece := _new(text, shown, prompt)):
                yield (prompt, piece) if several else piece
        for prompt, ids in tokens.items():
            if piece := _new(decode(ids), shown, prompt):
                yield (prompt, piece) if several else piece
    finally:
        left.set()
        thread.join()


def _new(text: str, shown: dict[int, str], prompt: int) -> str:
    before = shown.get(prompt, "")
    shown[prompt] = text
    return text[len(before) :]
