"""Answers whose prompts are read in blocks, without the padding of others: those of one at a time."""

from __future__ import annotations

from typing import Any

import cna
import pytest
from conftest import random_ids
from torch.profiler import ProfilerActivity, profile

LENGTHS = [1 + 37 * i % 61 for i in range(64)]  # 64 rows of up to 61 tokens: some three blocks


def passes(model: cna.Model, ids: list[list[int]]) -> int:
    """Forward passes that the first tokens of all answers take, the shared prefix's left out."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        model.generate(ids, 1, share_prefix=False)
    return next(e.count for e in seen.key_averages() if e.key == "cna_forward")


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize("head", [0, 9])
def test_blocks_of_prompts_change_no_answer(family: str, head: int, exports: Any) -> None:
    model = cna.load(exports(family))
    opening = random_ids([head], seed=2)[0] if head else []
    ids = [opening + p for p in random_ids(LENGTHS, seed=3)]
    assert passes(model, ids) > 2
    circuit = cna.discover(model, ids[:20], ids[20:40], k=12, universal=None)
    for positions in ("all", 2):
        strengths = [(0.0, 1.0, -1.0)[i % 3] for i in range(len(ids))]
        with model.steer(circuit, strengths, positions=positions):
            together = model.generate(ids, 5, return_tokens=True)
            bare = model.generate(ids, 5, share_prefix=False, return_tokens=True)
        apart = []
        for one, strength in zip(ids, strengths, strict=True):
            with model.steer(circuit, strength, positions=positions):
                apart += model.generate([one], 5, share_prefix=False, return_tokens=True)
        assert together == apart
        assert bare == apart
