"""One oracle over all hosts: archive, live module and compiled package give what plain hooks give."""

from __future__ import annotations

import copy
from typing import Any

import cna
import pytest
import torch
from conftest import (
    AOTI_ON_PUSH,
    FAMILIES,
    PROMPTS,
    hf_generate,
    hf_record,
    layers_of,
    make_hf,
    make_tokenizer,
    oracle_top_k,
    random_ids,
)

HOSTS = ["torchscript", "live", "aoti"]
LENGTHS = [1, 2, 5, 9, 23]  # around and beyond the sliding window of 6
PAIRS = [(host, family) for host in HOSTS[:2] for family in FAMILIES]
PAIRS += [
    pytest.param("aoti", f, marks=[] if f in AOTI_ON_PUSH else [pytest.mark.nightly])
    for f in FAMILIES
]


def open_host(host: str, family: str, exports: Any) -> cna.Model:
    if host == "live":
        return cna.live(copy.deepcopy(make_hf(family)), make_tokenizer(), model_id=family)
    return cna.load(exports(family, format=host))


@pytest.mark.parametrize(("host", "family"), PAIRS)
def test_every_host_equals_plain_hooks(host: str, family: str, exports: Any) -> None:
    """Chat prompts with a long common head, then short ones that share nothing."""
    hf, model = make_hf(family, layers=layers_of(family, host)), open_host(host, family, exports)
    assert model.core.has_cache
    chat, short = model.tokenize(PROMPTS), random_ids(LENGTHS)
    for ids in (chat, short):
        plain = hf_record(hf, ids, family)
        with torch.inference_mode():
            expected = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])
        for run in ({}, {"batch_size": 1, "share_prefix": False}):
            got = model.logits(ids, **run)
            assert (got - expected).abs().max() <= 1e-4 * expected.abs().max(), run
            got = cna.record(model, ids, **run) - torch.from_numpy(plain)
            assert got.abs().max() <= 1e-4 * abs(plain).max(), run
        half = len(ids) // 2
        circuit = cna.discover(model, ids[:half], ids[half:], k=9, universal=None)
        assert [(n.layer, n.index) for n in circuit] == oracle_top_k(plain[:half], plain[half:], 9)
    ids = [*chat[:3], *random_ids([4, 9, 11], seed=1)]
    answers = model.generate(ids, max_new_tokens=12, return_tokens=True)
    assert answers == [hf_generate(hf, prompt, 12) for prompt in ids]


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
