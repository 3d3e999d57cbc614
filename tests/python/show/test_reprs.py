"""What a prompt of Python or a notebook without HTML shows of a result: one short line."""

from __future__ import annotations

import cna
import pytest
from cna import analysis
from conftest import PROMPTS


def test_every_result_is_one_short_line(tiny: cna.Model) -> None:
    positive, negative = PROMPTS[:4], PROMPTS[4:]
    circuit = cna.discover(tiny, positive, negative, k=20, universal=None)
    task = cna.tasks.Task(
        "a task", "words", positive, negative, evaluation=PROMPTS[:2], benign=PROMPTS[2:4]
    )
    sweep = cna.sweep(
        tiny, circuit, task, multipliers=[0.0], baselines=[], max_new_tokens=3, quiz_questions=0
    )
    results = [
        circuit,
        task,
        sweep,
        cna.caa(tiny, positive, negative),
        cna.universal_neurons(tiny, [*PROMPTS, *PROMPTS]),
        cna.compare(circuit, circuit),
        analysis.layers_by_ranking(tiny, positive, negative, k=20),
        analysis.smallest_k(float, 8),
        analysis.base_against_instruct(tiny, tiny, positive, negative, k=20),
    ]
    for result in results:
        assert repr(result).startswith(type(result).__name__), repr(result)
        assert len(repr(result)) < 160 and "\n" not in repr(result), repr(result)
    assert repr(sweep) == "SweepResult('a task', 2 arms, 8 answers)"


@pytest.mark.parametrize("k", [1, 7])
def test_the_smallest_size_says_what_it_keeps(k: int) -> None:
    found = analysis.smallest_k(lambda n: float(n >= k), 8)
    assert repr(found) == f"SmallestK({k} neurons keep 80% of the effect of 8)"
