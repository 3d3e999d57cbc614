"""Steering belongs to the thread or task that entered it, and takes any kind of number."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import cna
import numpy as np
import pytest
import torch
from conftest import PROMPTS

IDS = [[5, 6, 7], [9, 3, 4, 8]]


@pytest.fixture(scope="module")
def circuit(tiny: cna.Model) -> Any:
    return cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=20, universal=None)


def test_two_tasks_on_one_thread_keep_their_own_steering(tiny: cna.Model, circuit: Any) -> None:
    alone = []
    for m in (-2.0, 3.0):
        with tiny.steer(circuit, m):
            alone.append(tiny.logits(IDS))
    plain = tiny.logits(IDS)

    async def one(m: float, mine: asyncio.Event, other: asyncio.Event) -> torch.Tensor:
        with tiny.steer(circuit, m):
            mine.set()
            await other.wait()  # both are inside their blocks now
            out = tiny.logits(IDS)
            await asyncio.sleep(0)
            return out

    async def both() -> list[torch.Tensor]:
        a, b = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(one(-2.0, a, b), one(3.0, b, a))

    got = asyncio.run(both())
    assert all(torch.equal(g, e) for g, e in zip(got, alone, strict=True))
    assert torch.equal(tiny.logits(IDS), plain)


def test_a_thread_that_asyncio_starts_inside_a_block_is_steered(
    tiny: cna.Model, circuit: Any
) -> None:
    async def run() -> tuple[torch.Tensor, torch.Tensor]:
        with tiny.steer(circuit, -2.0):
            return tiny.logits(IDS), await asyncio.to_thread(tiny.logits, IDS)

    here, there = asyncio.run(run())
    assert torch.equal(here, there)


def test_a_plain_thread_is_not_steered_and_another_model_neither(
    tiny: cna.Model, circuit: Any
) -> None:
    plain = tiny.logits(IDS)
    twin = cna.Model(tiny.core, tiny.tokenizer)
    seen: list[torch.Tensor] = []
    with tiny.steer(circuit, -2.0):
        thread = threading.Thread(target=lambda: seen.append(tiny.logits(IDS)))
        thread.start()
        thread.join()
        seen.append(twin.logits(IDS))
        assert not torch.equal(tiny.logits(IDS), plain)
    assert all(torch.equal(s, plain) for s in seen)


def test_blocks_may_end_in_any_order(tiny: cna.Model, circuit: Any) -> None:
    plain = tiny.logits(IDS)
    first, second = tiny.steer(circuit, 0.0), tiny.steer(circuit, 0.0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with tiny.steer(circuit, 1.0):
        inside = tiny.logits(IDS)
    second.__exit__(None, None, None)
    assert not torch.equal(inside, plain) and torch.equal(tiny.logits(IDS), plain)


@pytest.mark.parametrize(
    "m",
    [np.int64(2), np.float32(2), np.array(2.0), torch.tensor(2), torch.tensor(2.0), True + 1],
)
def test_any_kind_of_number_is_a_strength(tiny: cna.Model, circuit: Any, m: Any) -> None:
    with tiny.steer(circuit, 2.0):
        expected = tiny.logits(IDS)
    with tiny.steer(circuit, m):
        assert torch.equal(tiny.logits(IDS), expected)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, tuple])
def test_any_kind_of_list_is_one_strength_per_prompt(
    tiny: cna.Model, circuit: Any, kind: Any
) -> None:
    with tiny.steer(circuit, [0.0, 2.0]):
        expected = tiny.logits(IDS)
    with tiny.steer(circuit, kind([0.0, 2.0])):
        assert torch.equal(tiny.logits(IDS), expected)


@pytest.mark.parametrize("m", ["0", None, "much", [], np.nan, [[0.0], [1.0, 2.0]], float("inf")])
def test_what_is_no_number_is_refused(tiny: cna.Model, circuit: Any, m: Any) -> None:
    with pytest.raises(ValueError, match="steer: expected finite strengths"):
        with tiny.steer(circuit, m):
            pass
