"""Prompts that open alike in groups: an opening is computed once, and numbers stay what they are."""

from __future__ import annotations

import random
from typing import Any

import cna
import pytest
import torch
from conftest import random_ids
from torch.profiler import ProfilerActivity, profile

TAILS = [2, 3, 4, 3]


def blocks(sizes: list[int], lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Few-shot blocks of these lengths, with so many prompts behind each, in no order."""
    openings, draw = random_ids(lengths, seed), random.Random(seed)
    out = [
        opening + [draw.randrange(256) for _ in range(TAILS[i % len(TAILS)])]
        for opening, size in zip(openings, sizes, strict=True)
        for i in range(size)
    ]
    draw.shuffle(out)
    return out


def tokens_of(model: cna.Model, prompts: list[list[int]]) -> int:
    """Tokens that a layer of a recording computes on average."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        model.core.record(prompts, "neuron")
    products = [e for e in seen.events() if e.name == "cna::packed_linear"]
    # A call is recorded with what lies below its inputs on the stack.
    shapes = [e.input_shapes[-3] for e in products if e.input_shapes[-2] == [64, 32]]
    # Query, key and value are one product; gate and up are two.
    return sum(rows * tokens for rows, tokens, _ in shapes) // (3 * model.n_layers)


JOBS = {
    "two blocks": blocks([12, 12], [90, 70]),
    "a block among others": blocks([14, 1, 1, 1], [100, 9, 5, 40], seed=1),
    "blocks within a block": [
        [1, 2, 3, *random_ids([60], seed=9)[0], *p] for p in blocks([9, 9], [80, 80], seed=2)
    ]
    + blocks([3], [20], seed=3),
    "the same prompt again": [random_ids([110], seed=4)[0]] * 7 + random_ids([3, 8], seed=5),
    "nothing alike": random_ids([3, 9, 30, 4], seed=6),
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_recordings_are_those_of_each_prompt_alone(family: str, job: str, exports: Any) -> None:
    model, prompts = cna.load(exports(family)), JOBS[job]
    alone = cna.record(model, prompts, batch_size=1, share_prefix=False)
    for rows in (3, 64):
        got = cna.record(model, prompts, batch_size=rows)
        torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)
    half = len(prompts) // 2
    circuits = [
        cna.discover(model, prompts[:half], prompts[half:], k=9, universal=None, **how)
        for how in ({}, {"batch_size": 1})
    ]
    assert [(n.layer, n.index) for n in circuits[0].neurons] == [
        (n.layer, n.index) for n in circuits[1].neurons
    ]


def test_an_opening_is_computed_once(exports: Any) -> None:
    model = cna.load(exports("llama"))
    prompts = JOBS["two blocks"]
    assert sum(map(len, prompts)) > 1900
    # Each block once, then the tails: of three tokens on average, padded to four at most.
    assert 160 + 24 * 3 <= tokens_of(model, prompts) <= 160 + 24 * 4
    few = blocks([2, 2], [30, 30])  # as little as two more passes cost
    assert tokens_of(model, few) >= sum(map(len, few)) - 1


def test_a_bad_prompt_is_named_by_its_own_number(exports: Any) -> None:
    model = cna.load(exports("llama"))
    prompts = [*JOBS["two blocks"], []]
    with pytest.raises(ValueError, match=r"^record: .*prompt 24"):
        model.core.record(prompts, "neuron")
