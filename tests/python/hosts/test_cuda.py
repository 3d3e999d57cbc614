"""The oracle tests again, on a CUDA device; CNA_REQUIRE_CUDA=1 makes a skip a failure."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.hosts.capture import allow_capture
from conftest import FAMILIES, PROMPTS, hf_record, make_hf, make_tokenizer, oracle_top_k

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("family", FAMILIES)
def test_recordings_and_logits_on_cuda_equal_the_cpu(family: str, exports: Any) -> None:
    hf = make_hf(family)
    model = cna.load(exports(family), device="cuda")
    ids = model.tokenize(PROMPTS)
    plain = torch.from_numpy(hf_record(hf, ids, family))
    assert (cna.record(model, ids) - plain).abs().max() <= 1e-3 * plain.abs().max()
    with torch.inference_mode():
        expected = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])
    assert (model.logits(ids) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_discovery_and_steering_on_cuda(exports: Any) -> None:
    hf, model = make_hf("llama"), cna.load(exports("llama"), device="cuda")
    ids = model.tokenize(PROMPTS)
    circuit = cna.discover(model, ids[:4], ids[4:], k=12, universal=None)
    a, b = hf_record(hf, ids[:4]), hf_record(hf, ids[4:])
    assert [(n.layer, n.index) for n in circuit] == oracle_top_k(a, b, 12)
    plain = model.logits(ids)
    with model.steer(circuit, 1.0):
        assert torch.equal(model.logits(ids), plain)
    on_cpu = cna.load(exports("llama"), device="cpu")  # beside a GPU, auto is the GPU
    with model.steer(circuit, 0.0), on_cpu.steer(circuit, 0.0):
        assert (model.logits(ids) - on_cpu.logits(ids)).abs().max() <= 1e-3 * plain.abs().max()
        assert model.generate(ids, max_new_tokens=8) == on_cpu.generate(ids, max_new_tokens=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_answer_as_launched_ones(family: str, exports: Any) -> None:
    folder = exports(family)
    launched = cna.load(folder, device="cuda")
    captured = cna.load(folder, device="cuda", capture=True)
    assert captured.core.captures and not launched.core.captures
    ids = launched.tokenize(PROMPTS)
    circuit = cna.discover(launched, ids[:4], ids[4:], k=12, universal=None)
    for settings in ({}, {"temperature": 0.8, "seed": 3}, {"batch_size": 3}):
        for model in (launched, captured):
            with model.steer(circuit, 0.5):
                model.generate(ids, max_new_tokens=4)  # edits come and go between runs
        answers = [
            m.generate(ids, max_new_tokens=24, **settings) for m in (launched, captured, captured)
        ]
        assert answers[0] == answers[1] == answers[2]


def test_models_capture_beside_models_that_launch(exports: Any) -> None:
    """In four threads: nobody's capture is broken by what another asks of the device."""
    ids = cna.load(exports("llama"), device="cpu").tokenize(PROMPTS)
    models = [cna.load(exports("llama"), device="cuda", capture=i % 2 == 0) for i in range(4)]
    alone = models[1].generate(ids, max_new_tokens=24)
    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(lambda m: m.generate(ids, max_new_tokens=24), models * 3):
            assert answers == alone


def test_ctrl_c_in_a_capture_is_a_keyboard_interrupt(exports: Any) -> None:
    model = cna.load(exports("llama"), device="cuda", capture=True)
    ids = model.tokenize(PROMPTS)
    plain = model.generate(ids, max_new_tokens=8)

    def stopped(device: str, work: Any) -> Any:
        raise KeyboardInterrupt

    cna._core.set_capture("cuda", stopped)
    try:
        with pytest.raises(KeyboardInterrupt):
            model.generate(ids, max_new_tokens=8)
    finally:
        allow_capture()
    assert model.generate(ids, max_new_tokens=8) == plain


def test_a_model_moves_there_and_back(exports: Any) -> None:
    model = cna.load(exports("gemma2"), device="cpu")
    plain = model.logits(PROMPTS)
    model.to("cuda").to("cpu")
    assert torch.equal(model.logits(PROMPTS), plain)


def test_a_package_compiled_for_cuda_equals_the_cpu(tmp_path: Path) -> None:
    hf = copy.deepcopy(make_hf("llama"))
    folder = cna.export(hf.to("cuda"), make_tokenizer(), tmp_path / "m", format="aoti")
    model = cna.load(folder, device="cuda")
    ids = model.tokenize(PROMPTS)
    plain = torch.from_numpy(hf_record(make_hf("llama"), ids))
    assert (cna.record(model, ids) - plain).abs().max() <= 1e-3 * plain.abs().max()
