"""One oracle over all hosts: archive, live module and compiled package give what plain hooks give."""

from __future__ import annotations

import copy
from typing import Any

import cna
import pytest
import torch
from conftest import (
    FAMILIES,
    PROMPTS,
    hf_generate,
    hf_record,
    make_hf,
    make_tokenizer,
    oracle_top_k,
)

HOSTS = ["torchscript", "live", "aoti"]


def open_host(host: str, family: str, exports: Any) -> cna.Model:
    if host == "live":
        return cna.live(copy.deepcopy(make_hf(family)), make_tokenizer(), model_id=family)
    return cna.load(exports(family, format=host))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_host_equals_plain_hooks(host: str, family: str, exports: Any) -> None:
    hf, model = make_hf(family), open_host(host, family, exports)
    ids = model.tokenize(PROMPTS)
    plain = hf_record(hf, ids, family)
    assert (cna.record(model, ids) - torch.from_numpy(plain)).abs().max() <= 1e-4 * abs(plain).max()
    with torch.inference_mode():
        expected = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])
    assert (model.logits(ids) - expected).abs().max() <= 1e-4 * expected.abs().max()
    circuit = cna.discover(model, ids[:4], ids[4:], k=9, universal=None)
    assert [(n.layer, n.index) for n in circuit] == oracle_top_k(plain[:4], plain[4:], 9)
    answers = model.generate(ids[:3], max_new_tokens=8, return_tokens=True)
    assert answers == [hf_generate(hf, prompt, 8) for prompt in ids[:3]]


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_steers_alike(host: str, exports: Any) -> None:
    model, reference = open_host(host, "llama", exports), cna.load(exports("llama"))
    circuit = cna.discover(reference, PROMPTS[:4], PROMPTS[4:], k=9, universal=None)
    plain = model.logits(PROMPTS)
    with model.steer(circuit, 1.0):
        assert torch.equal(model.logits(PROMPTS), plain)
    strengths = [0.0, -1.0] * 4
    vector = cna.Intervention.add("residual", 1, torch.ones(32), [0.7])
    with model.steer(circuit, strengths), reference.steer(circuit, strengths):
        assert torch.allclose(model.logits(PROMPTS), reference.logits(PROMPTS), atol=1e-4)
        assert model.generate(PROMPTS, max_new_tokens=6) == reference.generate(
            PROMPTS, max_new_tokens=6
        )
    with model.steer(vector), reference.steer(vector):
        assert torch.allclose(model.logits(PROMPTS), reference.logits(PROMPTS), atol=1e-4)
    assert torch.equal(model.logits(PROMPTS), plain)
