"""A circuit in other libraries gives cna's logits; run by `make other-libraries`, beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from conftest import make_hf, make_tokenizer, random_ids
from live_oracle import close

IDS = random_ids([9, 3, 14, 6], seed=4)
M = 0.3


@pytest.fixture(scope="module")
def hf() -> Any:
    return make_hf("llama")


@pytest.fixture(scope="module")
def found(hf: Any) -> tuple[cna.Circuit, torch.Tensor]:
    """A circuit, and the logits of steering by it."""
    model = cna.live(hf, None)
    circuit = cna.discover(model, IDS[:2], IDS[2:], k=30, universal=None, progress=False)
    with model.steer(circuit, M):
        steered = model.logits(IDS, progress=False)
    assert not close(steered, model.logits(IDS, progress=False), 1e-2)
    return circuit, steered


def test_transformer_lens(hf: Any, found: tuple[cna.Circuit, torch.Tensor], tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    hf.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    lens = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    hooks = found[0].to_hooks(M)
    with torch.no_grad():
        got = [lens.run_with_hooks(torch.tensor([p]), fwd_hooks=hooks)[0, -1] for p in IDS]
    assert close(torch.stack(got), found[1], 1e-5)


def test_nnsight(hf: Any, found: tuple[cna.Circuit, torch.Tensor]) -> None:
    from nnsight import LanguageModel

    model = LanguageModel(hf, tokenizer=make_tokenizer())
    hooks = found[0].to_hooks(M, names="{layer}")
    got = []
    for prompt in IDS:
        with model.trace(torch.tensor([prompt])):
            for layer, edit in hooks:
                down = model.model.layers[int(layer)].mlp.down_proj
                down.input = edit(down.input)
            logits = model.lm_head.output.save()
        got.append(logits[0, -1].detach())
    assert close(torch.stack(got), found[1], 1e-5)
