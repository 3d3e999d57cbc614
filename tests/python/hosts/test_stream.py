"""Streams: pieces of text that add up to the answer, and what ends them."""

from __future__ import annotations

import threading
from typing import Any

import cna
import pytest
from cna.hosts.stream import pieces
from conftest import PROMPTS, make_hf


def test_pieces_add_up_to_the_answers(tiny: cna.Model, circuit: cna.Circuit) -> None:
    expected = tiny.generate(PROMPTS[:3], 12, progress=False)
    assert "".join(tiny.generate(PROMPTS[:1], 12, stream=True)) == expected[0]
    parts = ["", "", ""]
    for prompt, piece in tiny.generate(PROMPTS[:3], 12, stream=True):
        parts[prompt] += piece
    assert parts == expected
    with tiny.steer(circuit, 0.0):
        steered = tiny.generate(PROMPTS[:1], 12, progress=False)[0]
        stream = tiny.generate(PROMPTS[:1], 12, stream=True)
    assert "".join(stream) == steered  # steered as where it was called


def test_characters_come_whole() -> None:
    """Tokens that are bytes: no piece ends within a character."""
    text = "né 日本 ok"
    data = list(text.encode())

    def run(on_token: Any) -> None:
        for byte in data:
            on_token(0, byte)

    got = list(pieces(run, lambda ids: bytes(ids).decode(errors="replace"), several=False))
    assert "".join(got) == text and "\ufffd" not in "".join(got) and len(got) == len(text)
    data = [0xC3]
    cut = list(pieces(run, lambda ids: bytes(ids).decode(errors="replace"), several=False))
    assert cut == ["\ufffd"]  # what never becomes whole is shown at the end


def test_a_reader_that_leaves_ends_the_run(tiny: cna.Model) -> None:
    before = threading.active_count()
    stream = tiny.generate(PROMPTS[:1], 200, stream=True)
    assert next(stream)
    stream.close()
    assert threading.active_count() == before
    assert tiny.generate(PROMPTS[:1], 3, progress=False)  # the model is free again


def test_errors_reach_the_reader(tiny: cna.Model) -> None:
    with pytest.raises(ValueError, match=r"^generate: expected max_new_tokens"):
        list(tiny.generate(PROMPTS[:1], 0, stream=True))
    bare = cna.live(make_hf("llama"), None)
    with pytest.raises(ValueError, match=r"^generate: expected a model with a tokenizer"):
        bare.generate([[1, 2]], stream=True)


def test_a_chat_streams_and_counts_what_was_read_to_the_end(tiny: cna.Model) -> None:
    one, other = tiny.chat(), tiny.chat()
    assert "".join(one.say("Name a fruit.", 9, stream=True)) == other.say("Name a fruit.", 9)
    assert one.messages == other.messages
    stream = one.say("And another?", 9, stream=True)
    next(stream)
    stream.close()
    assert one.messages == other.messages
    assert one.say("And another?", 9) == other.say("And another?", 9)
