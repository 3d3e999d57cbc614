"""Steering at chosen tokens equals plain hooks that touch those tokens alone, on both hosts."""

from __future__ import annotations

from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS, make_hf, make_tokenizer
from reference import scaled_neurons


@pytest.fixture(scope="module", params=["torchscript", "live"])
def host(request: pytest.FixtureRequest, tiny: cna.Model) -> cna.Model:
    return tiny if request.param == "torchscript" else cna.live(make_hf(), make_tokenizer())


def greedy(hf: Any, ids: list[int], n: int) -> list[int]:
    """Whole texts, again for each token: no cache."""
    text = list(ids)
    for _ in range(n):
        text.append(int(hf(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("positions, last", [("answer", 1), (3, 3), (1000, 1000)])
def test_answers_and_logits_equal_plain_hooks(
    host: cna.Model, circuit: cna.Circuit, positions: Any, last: int
) -> None:
    hf = make_hf()
    expected, logits = [], []
    for ids in host.tokenize(PROMPTS):
        with scaled_neurons(hf, circuit, -4.0, max(0, len(ids) - last)), torch.inference_mode():
            expected.append(greedy(hf, ids, 6))
            logits.append(hf(torch.tensor([ids])).logits[0, -1])
    for share in (True, False):
        with host.steer(circuit, -4.0, positions=positions):
            got = host.generate(PROMPTS, 6, return_tokens=True, share_prefix=share)
            close = host.logits(PROMPTS, share_prefix=share)
        assert got == [a[: a.index(257)] if 257 in a else a for a in expected]
        assert (close - torch.stack(logits)).abs().max() <= 1e-4 * close.abs().max()
    with host.steer(circuit, -4.0):
        everywhere = host.logits(PROMPTS)
    same = torch.allclose(everywhere, close, rtol=1e-4, atol=1e-5)
    assert same == (last == 1000)


@pytest.mark.parametrize("positions", ["prompt", 0, -1, 1.5, True, None])
def test_other_positions_are_refused(tiny: cna.Model, circuit: cna.Circuit, positions: Any) -> None:
    with pytest.raises(ValueError, match=r"^steer: expected positions 'all', 'answer'"):
        with tiny.steer(circuit, 0.0, positions=positions):
            pass


def test_an_overflow_is_an_error_in_every_function_that_reads_logits(tiny: cna.Model) -> None:
    """Infinity in the residual stream: RMSNorm makes zeros of it, and every logit equal."""
    vector = torch.full([tiny.hidden_size], 3e38)
    last = tiny.n_layers - 1
    bad = cna.Intervention.add("residual", last, vector, [1.0])
    ids = tiny.tokenize(PROMPTS[:2])
    with tiny.steer(bad):
        for call in (
            lambda: tiny.generate(PROMPTS[:2], 4),
            lambda: tiny.logits(PROMPTS[:2]),
        ):
            with pytest.raises(cna.NonFiniteError, match=r"in prompt [01] at answer token 0"):
                call()
    with pytest.raises(cna.NonFiniteError, match=r"^log_likelihood: expected finite logits"):
        tiny.core.log_likelihood(ids, [[5], [6, 7]], intervention=bad)
    both = cna.Intervention.concat([cna.Intervention(1), bad])
    with pytest.raises(cna.NonFiniteError, match=r"^divergence: expected finite logits"):
        tiny.core.divergence(ids, [[5], [6, 7]], intervention=both)
    assert issubclass(cna.NonFiniteError, RuntimeError)
    assert len(tiny.generate(PROMPTS[:2], 4)) == 2  # and the model is as it was
