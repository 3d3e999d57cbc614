"""Products in bfloat16: those of rounded inputs and weights, and refused where there are none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import torch.nn.functional as F
from cna.cli import main
from conftest import MULTIPLIES_BF16, PROMPTS, layers_of, make_hf, needs_bf16, random_ids

IDS = random_ids([3, 7, 7, 12, 30], seed=5)


def rounding(hf: torch.nn.Module) -> torch.nn.Module:
    """The same module, whose linear layers take in and give out bfloat16."""
    out = copy.deepcopy(hf)
    for part in out.modules():
        if isinstance(part, torch.nn.Linear):
            weight, bias = part.weight.detach().bfloat16().float(), part.bias

            def product(x: Any, weight: Any = weight, bias: Any = bias) -> Any:
                y = F.linear(x.bfloat16().float(), weight).bfloat16().float()
                return y if bias is None else y + bias

            part.forward = product
    return out


@needs_bf16
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_products_are_those_of_rounded_numbers(family: str, exports: Any) -> None:
    hf = make_hf(family, layers=layers_of(family, "torchscript"))
    model = cna.load(exports(family), precision="bf16")
    with torch.inference_mode():
        exact = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in IDS])
        rounded = torch.stack([rounding(hf)(torch.tensor([p])).logits[0, -1] for p in IDS])
    got, most = model.logits(IDS), exact.abs().max()
    assert got.dtype == torch.float32
    near, far = (got - rounded).abs().max() / most, (got - exact).abs().max() / most
    assert near < 0.01 and 1e-4 < far < 0.05
    full = cna.load(exports(family))
    found = [cna.discover(m, PROMPTS[:4], PROMPTS[4:], k=40, universal=None) for m in (model, full)]
    assert cna.compare(*found).shared >= 36


@needs_bf16
def test_rankings_by_weights_work_on_rounded_ones(exports: Any) -> None:
    model, full = cna.load(exports("llama"), precision="bf16"), cna.load(exports("llama"))
    sides = PROMPTS[:4], PROMPTS[4:]
    got, want = (cna.contributions(m, *sides) for m in (model, full))
    torch.testing.assert_close(
        torch.as_tensor(got.numpy()), torch.as_tensor(want.numpy()), rtol=0.2, atol=0.02
    )
    with model.steer(cna.discover(model, *sides, k=5), 0.0):
        assert model.generate(PROMPTS[:2], 4)


@needs_bf16
def test_the_shell_says_how_many_neurons_stay(
    exports: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, prompts in (("a.txt", PROMPTS[:4]), ("b.txt", PROMPTS[4:])):
        (tmp_path / name).write_text("\n".join(prompts) + "\n", encoding="utf-8")
    words = ["discover", "--model", str(exports("llama")), "--precision", "bf16", "--k", "20"]
    words += ["--positive", str(tmp_path / "a.txt"), "--negative", str(tmp_path / "b.txt")]
    assert main([*words, "--universal", "none", "--out", str(tmp_path / "c.json")]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if "float32 finds" in x]
    assert len(lines) == 1 and lines[0].endswith("of 20 neurons are those that float32 finds")
    assert int(lines[0].split()[0]) >= 17


def test_what_has_no_such_products_is_refused(exports: Any) -> None:
    folder = exports("llama")
    with pytest.raises(
        ValueError, match=r"^load: expected a precision of float32 or bf16, got 'f8'"
    ):
        cna.load(folder, precision="f8")
    with pytest.raises(ValueError, match=r"^load: expected an export for precision='bf16'"):
        cna.load(folder, precision="bf16", format="live")
    with pytest.raises(ValueError, match=r"^load: expected a float32 export on a CPU, with fuse"):
        cna.load(folder, precision="bf16", fuse=False)
    with pytest.raises(ValueError, match=r"^load: expected a float32 export .*got BFloat16 on cpu"):
        cna.load(exports("llama", torch.bfloat16), precision="bf16")
    if MULTIPLIES_BF16:
        with pytest.raises(
            ValueError, match=r"^to: expected a CPU for a model with products in bf"
        ):
            cna.load(folder, precision="bf16").core.to("meta")
