"""Forms in which a graph multiplies: the same numbers but for last bits, the fastest by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import numpy as np
import pytest
import torch
import transformers
from cna import _core
from conftest import FAMILIES, layers_of, make_hf, random_ids
from processes import run_script

FORMS = ("packed", "weights_first", "plain")
IDS = random_ids([3, 7, 7, 12, 30], seed=5)


def linears(hf: Any) -> dict[str, torch.Tensor]:
    """Weights of all linear layers by the path that they have in an export's graph."""
    kinds = torch.nn.Linear, transformers.pytorch_utils.Conv1D
    return {f"model.{n}": m.weight.detach() for n, m in hf.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_form_gives_the_modules_numbers(family: str, form: str, exports: Any) -> None:
    hf = make_hf(family, layers=layers_of(family, "torchscript"))
    model = cna.load(exports(family), products=form)
    assert model.core.products == form
    with torch.inference_mode():
        want = torch.stack([hf(torch.tensor([p]), logits_to_keep=1).logits[0, -1] for p in IDS])
    for more in ({}, {"batch_size": 1}):
        assert (model.logits(IDS, **more) - want).abs().max() <= 2e-5 * want.abs().max()
    plain = cna.load(exports(family), fuse=False)
    assert plain.core.products == "plain"
    assert model.generate(IDS, 8, return_tokens=True) == plain.generate(IDS, 8, return_tokens=True)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_weights_are_what_they_were_in_every_form(family: str, exports: Any) -> None:
    """Packed, joined (qwen2: with biases), turned (gpt2): bit for bit, also behind a move."""
    known = linears(make_hf(family, layers=layers_of(family, "torchscript")))
    for form in FORMS:
        core = cna.load(exports(family), products=form).core
        before = core.logits(IDS)
        for _ in range(2):
            for path, weight in known.items():
                got = core.weight(path)
                assert got is not None and torch.equal(got, weight), (form, path)
            core.to("cpu")  # all made anew, of every layer's own weight
            assert torch.equal(core.logits(IDS), before)
        core.to("meta")
        assert core.products == "plain" and core.dry_run(2, 3, 4) == [2, 1, 320]


def test_few_rows_read_the_weight_first() -> None:
    torch.manual_seed(0)
    for rows in (0, 1, 2, 31, 127, 128, 300):
        for weight in (torch.randn(24, 40), torch.randn(40, 24).t()):
            x, bias = torch.randn(rows, 40), torch.randn(24)
            want = x.double().numpy() @ weight.double().numpy().T
            for given in (x, x.view(rows, 1, 40), torch.randn(40, rows).copy_(x.t()).t()):
                for added in (None, bias):
                    got = torch.ops.cna.weights_first_linear(given, weight, added)
                    assert got.shape == (*given.shape[:-1], 24) and got.is_contiguous()
                    more = 0 if added is None else bias.double().numpy()
                    np.testing.assert_allclose(
                        got.view(rows, 24), want + more, rtol=1e-5, atol=1e-5
                    )


OPENED = """
import sys, time, torch, cna

def slow(x, weight, *_):
    time.sleep(0.03)
    return x @ weight.to_dense().T

if sys.argv[2] == "slow":
    library = torch.library.Library("mkldnn", "IMPL")
    library.impl("_linear_pointwise", slow, "MkldnnCPU", allow_override=True)
print(cna.load(sys.argv[1]).core.products)
"""


def opened(folder: Path, speed: str) -> str:
    run = run_script(OPENED, folder, speed)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()[-1]


def test_the_fastest_form_is_found_by_measuring(tmp_path: Path) -> None:
    """Where packed products take 30 ms each another form is chosen; small weights are not measured."""
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=2, num_attention_heads=8
    )
    config.vocab_size, config.eos_token_id, config.bos_token_id = 64, 1, 2
    torch.manual_seed(0)
    hf = transformers.LlamaForCausalLM(config).eval()
    large = cna.export(hf, None, tmp_path / "large")
    assert opened(large, "slow") in ("weights_first", "plain")
    small = cna.export(make_hf("llama"), None, tmp_path / "small")
    assert opened(small, "slow") == opened(small, "usual") == "packed"


def test_a_form_that_cannot_be_is_refused(exports: Any) -> None:
    folder = exports("llama")
    with pytest.raises(
        ValueError, match=r"^load: expected products of measured, packed, .* or plain, got 'blas'"
    ):
        cna.load(folder, products="blas")
    with pytest.raises(ValueError, match=r"^load: expected products of .*or none, got 'blas'"):
        _core.Model.load(folder, products="blas")
    with pytest.raises(ValueError, match=r"^load: expected an export for products='packed'"):
        cna.load(folder, products="packed", format="live")
    with pytest.raises(
        ValueError, match=r"^load: expected a float32 export .*got Float on cpu wit"
    ):
        cna.load(folder, products="packed", fuse=False)
    with pytest.raises(ValueError, match=r"^load: expected a float32 export .*got BFloat16 on cpu"):
        cna.load(exports("llama", torch.bfloat16), products="weights_first")
    with pytest.raises(
        ValueError, match=r"^load: expected packed weights for products in bfloat16"
    ):
        cna.load(folder, products="plain", precision="bf16")
    with pytest.raises(
        ValueError, match=r"^load: expected a TorchScript export for a form of its pr"
    ):
        cna.load(exports("llama", format="aoti"), products="packed")
