"""Baselines against plain Hugging Face: a bias on the logits, and vectors from the answer on."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
import torch
from cna.measure.baselines import first_token_odds
from cna.tasks import Task
from reference import FEW

EVALUATION = [f"Please do number {i}." for i in range(4)]
BENIGN = [f"Say {word}." for word in ("one", "two")]


def logits_of(hf: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return hf(torch.tensor([ids])).logits[0].double()


def greedy(logits: Any, ids: list[int], n: int, end: int) -> list[int]:
    """A greedy answer from logits(ids) [tokens, vocab], without the end token."""
    out: list[int] = []
    for _ in range(n):
        token = int(logits(ids + out)[-1].argmax())
        if token == end:
            break
        out.append(token)
    return out


def odds_by_hand(hf: Any, sides: list[list[list[int]]]) -> torch.Tensor:
    logs = []
    for side in sides:
        rows = torch.stack([logits_of(hf, ids)[-1].softmax(-1) for ids in side])
        logs.append(rows.mean(0).clamp_min(1e-4).log())
    return logs[0] - logs[1]


def test_a_logit_bias_is_hugging_face_with_biased_logits(
    tiny: cna.Model, tiny_hf: Any, task: Task, circuit: cna.Circuit
) -> None:
    odds = odds_by_hand(tiny_hf, [tiny.tokenize(p) for p in (task.positive, task.negative)])
    got = first_token_odds(tiny, task, progress=False)
    assert torch.allclose(got.double(), odds, atol=1e-3)
    result = cna.sweep(tiny, circuit, task, [0.0], ["logit-bias"], logit_biases=[-1.5, 2.0], **FEW)
    end = tiny_hf.config.eos_token_id
    for b in (-1.5, 2.0):

        def biased(ids: list[int], b: float = b) -> torch.Tensor:
            return logits_of(tiny_hf, ids) + b * odds

        rows = result.answers[(result.answers.method == "logit-bias")]
        rows = rows[(rows.strength == b) & (rows.set == "evaluation")].sort_values("index")
        expected = [greedy(biased, ids, 5, end) for ids in tiny.tokenize(EVALUATION)]
        assert list(rows.answer) == [tiny.decode(t) for t in expected]
        kl = []
        for ids in tiny.tokenize(BENIGN):
            answer = greedy(lambda x: logits_of(tiny_hf, x), ids, 5, end)
            base, mine = (
                f(ids + answer)[len(ids) - 1 : -1].log_softmax(-1)
                for f in (lambda x: logits_of(tiny_hf, x), biased)
            )
            kl.append(float((base.exp() * (base - mine)).sum(-1).mean()))
        (row,) = result.table[result.table.strength == b].to_dict("records")
        assert row["kl_benign"] == pytest.approx(np.mean(kl), abs=1e-3)
        assert row["kind"] == "logit_bias" and np.isnan(row["alpha"])


def test_a_vector_from_the_answer_on_leaves_the_instruction_alone(
    tiny: cna.Model, tiny_hf: Any, task: Task, circuit: cna.Circuit
) -> None:
    result = cna.sweep(
        tiny,
        circuit,
        task,
        [0.0],
        ["caa", "caa-answer"],
        caa_layers=[1],
        caa_coefficients=[-8.0],
        **FEW,
    )
    vector = cna.caa(tiny, task.positive, task.negative, layers=[1]).vectors[1]
    block = tiny_hf.model.layers[1]
    for method in ("caa", "caa-answer"):
        rows = result.answers[result.answers.method == method]
        rows = rows[rows.set == "evaluation"].sort_values("index")
        expected = []
        for ids in tiny.tokenize(EVALUATION):
            first = 0 if method == "caa" else len(ids) - 1

            def add(_: Any, __: Any, out: Any, first: int = first) -> Any:
                hidden = out[0] if isinstance(out, tuple) else out
                hidden = hidden.clone()
                hidden[:, first:] += -8.0 * vector
                return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

            handle = block.register_forward_hook(add)
            answer = greedy(lambda x: logits_of(tiny_hf, x), ids, 5, tiny_hf.config.eos_token_id)
            handle.remove()
            expected.append(tiny.decode(answer))
        assert list(rows.answer) == expected, method
    texts = {
        m: list(result.answers[result.answers.method == m].answer) for m in ("caa", "caa-answer")
    }
    assert texts["caa"] != texts["caa-answer"]
