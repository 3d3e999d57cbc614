"""Threads on several models, and on one, give what each gives alone."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS, make_hf, make_tokenizer

THREADS = 8
POSITIVE, NEGATIVE = PROMPTS[:4], PROMPTS[4:]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, exports: Any) -> list[cna.Model]:
    """Four tiny models with different weights, on all three hosts."""
    root = tmp_path_factory.mktemp("threads")
    paths = [
        cna.export(make_hf("llama", seed=i), make_tokenizer(), root / str(i), model_id=f"m{i}")
        for i in (1, 2)
    ]
    live = cna.live(copy.deepcopy(make_hf("llama", seed=3)), make_tokenizer(), model_id="m3")
    return [cna.load(exports("llama", format="aoti")), *map(cna.load, paths), live]


def job(model: cna.Model, which: int) -> dict[str, Any]:
    """Discovery, steering at a strength of the thread's own, generation and logits."""
    circuit = cna.discover(
        model,
        POSITIVE[: 2 + which % 3],
        NEGATIVE[: 2 + which % 3],
        k=6 + which,
        universal=None,
        progress=False,
    )
    with model.steer(circuit, multiplier=-0.5 * which):
        steered = model.generate(PROMPTS[:4], max_new_tokens=12, progress=False, return_tokens=True)
        steered_logits = model.logits(PROMPTS[:4], progress=False)
    plain = model.generate(PROMPTS[:4], max_new_tokens=12, progress=False, return_tokens=True)
    return {
        "circuit": circuit.to_json(),
        "steered": steered,
        "steered_logits": steered_logits,
        "plain": plain,
        "logits": model.logits(PROMPTS, progress=False),
        "record": cna.record(model, PROMPTS, progress=False),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


def test_8_threads_on_4_models_give_what_each_gives_alone(models: list[cna.Model]) -> None:
    work = [(models[i % 4], i) for i in range(THREADS)]
    alone = [job(*w) for w in work]
    for _ in range(3):
        with ThreadPoolExecutor(THREADS) as pool:
            together = list(pool.map(lambda w: job(*w), work))
        for a, b in zip(alone, together, strict=True):
            same(a, b)


def test_8_threads_on_one_model_keep_their_own_steering(models: list[cna.Model]) -> None:
    alone = [job(models[0], i) for i in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda i: job(models[0], i), range(THREADS)))
    for a, b in zip(alone, together, strict=True):
        same(a, b)


def test_an_error_in_one_thread_leaves_the_others_alone(models: list[cna.Model]) -> None:
    expected = job(models[1], 2)

    def wrong(_: int) -> str:
        with pytest.raises(ValueError) as caught:
            models[1].generate([[10**9]], progress=False)
        return str(caught.value)

    with ThreadPoolExecutor(THREADS) as pool:
        good = [pool.submit(job, models[1], 2) for _ in range(3)]
        bad = [pool.submit(wrong, i) for i in range(5)]
        for future in good:
            same(expected, future.result())
        assert all("token ids" in future.result() for future in bad)
