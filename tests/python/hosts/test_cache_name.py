"""transformers 5.24 calls `past_key_values` of forward `cache`; 5.40 takes the old name away."""

from __future__ import annotations

import copy
import inspect
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cna
import pytest
import torch
from cna.hosts.cache_name import cache_argument, cache_of
from conftest import make_hf
from transformers import LlamaForCausalLM

OWN = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(LlamaForCausalLM.forward).parameters
)


class OnlyCache(LlamaForCausalLM):
    """A Llama as of transformers 5.40: the old name is no argument and no field any more."""

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        return_dict: bool | None = None,
    ) -> Any:
        out = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **{OWN: cache},
        )
        return SimpleNamespace(logits=out.logits, cache=out[OWN] if OWN in out else None)


@pytest.fixture
def renamed() -> Any:
    model = copy.deepcopy(make_hf("llama"))
    model.__class__ = OnlyCache
    return model


PROMPTS = [[256, 5, 9, 31, 7], [256, 5, 80], [256, 5, 9, 12, 13, 14, 15]]


def plain(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([p])).logits[0, -1] for p in PROMPTS])


def test_a_model_that_knows_only_the_new_name_is_exported(renamed: Any, tmp_path: Path) -> None:
    opened = cna.load(cna.export(renamed, None, tmp_path / "m"))
    assert opened.core.has_cache
    torch.testing.assert_close(opened.logits(PROMPTS), plain(renamed), rtol=0, atol=1e-5)


def test_a_model_that_knows_only_the_new_name_runs_live_with_its_cache(renamed: Any) -> None:
    opened = cna.live(renamed, None)
    assert opened.core.has_cache
    torch.testing.assert_close(opened.logits(PROMPTS), plain(renamed), rtol=0, atol=1e-5)


def test_the_name_is_read_off_the_signature_also_behind_a_wrapper() -> None:
    assert cache_argument(make_hf("llama")) == OWN
    wrapper = SimpleNamespace(get_base_model=lambda: OnlyCache(make_hf("llama").config))
    assert cache_argument(wrapper) == "cache"


def test_export_and_live_warn_of_nothing_that_goes_away(tmp_path: Path) -> None:
    model = make_hf("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        cna.export(model, None, tmp_path / "m")
        cna.live(model, None)
        out = model(input_ids=torch.tensor([PROMPTS[0]]), use_cache=True)
        assert len(cache_of(out).layers) == 4
