"""Query, key and value as one product: where their graph allows it, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import torch.nn.functional as F
from conftest import make_hf, needs_bf16, random_ids
from processes import run_script
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

IDS = random_ids([5], seed=3)


class Biased(nn.Module):
    """A linear layer whose one bias serves all features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down_proj(torch.relu(self.up_proj(x)))


class Block(nn.Module):
    """Attention and an MLP; subclasses say how heads are made of features."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.mlp = Mlp()

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(x)
        return self.split(self.q(y)), self.split(self.k(y)), self.split(self.v(y))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], 4, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        near = torch.softmax(torch.einsum("bthd,bshd->bhts", q, k), -1)
        return self.mlp(x + torch.einsum("bhts,bshd->bthd", near, v).reshape(x.shape))


class Merged(Block):
    """Tokens and heads are one dimension, which is no view of features that lie apart."""

    def split(self, x: Tensor) -> Tensor:
        flat = x.view(x.shape[0], x.shape[1] * 4, 8)
        return flat.reshape(x.shape[0], x.shape[1], 4, 8)


class ViewedAgain(Block):
    def split(self, x: Tensor) -> Tensor:
        split = x.view(x.shape[0], x.shape[1], 4, 8)
        return split.view(x.shape[0], x.shape[1] * 4, 8).reshape(split.shape)


class Scaled(Block):
    def split(self, x: Tensor) -> Tensor:
        return (x * 0.5).view(x.shape[0], x.shape[1], 4, 8)


class OneBias(Block):
    def __init__(self) -> None:
        super().__init__()
        self.k = Biased()


class SharedWeight(Block):
    def __init__(self) -> None:
        super().__init__()
        self.v.weight = self.q.weight


class Written(Block):
    """Somebody writes into what the products read, between them."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.tanh(x)
        q = self.split(self.q(y))
        y += 1.0
        k = self.split(self.k(y))
        y[:, 0] = 0.5
        return q, k, self.split(self.v(y))


class Whole(nn.Module):
    def __init__(self, kind: type[Block]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Embedding(320, 32), nn.ModuleList([kind(), kind()])
        self.head = nn.Linear(32, 320)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def products_of(model: cna.Model) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        model.logits(IDS)
    return sum(e.count for e in seen.key_averages() if e.key == "cna::packed_linear")


# Products of two layers and the head, where they are joined and where they must not be.
KINDS = {
    Block: 7,
    Merged: 7,
    ViewedAgain: 11,
    Scaled: 11,
    OneBias: 9,
    SharedWeight: 11,
    Written: 11,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_products_are_joined_where_that_changes_nothing(kind: type[Block], tmp_path: Path) -> None:
    whole = Whole(kind).eval()
    if kind is Written:  # tracing would write into copies
        file = torch.jit.script(whole)
    else:
        file = torch.jit.trace(whole, torch.tensor(IDS))
    file.save(tmp_path / "model.pt")
    model = cna.load(tmp_path / "model.pt", products="packed")
    with torch.inference_mode():
        want = whole(torch.tensor(IDS))[:, -1]
    assert (model.logits(IDS) - want).abs().max() <= 2e-5 * want.abs().max()
    assert products_of(model) == KINDS[kind]
    for _ in range(2):
        for name, weight in whole.named_parameters():
            if name.endswith(("q.weight", "k.weight", "v.weight")):
                assert torch.equal(model.core.weight(name.removesuffix(".weight")), weight)
        model.core.to("cpu")


@torch.jit.interface
class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[empty-body]
        pass


class ByInterface(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Embedding(320, 32), nn.ModuleList([Block(), Block()])
        self.mixing, self.head = Mlp(), nn.Linear(32, 320)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.mixing.forward(x))


ByInterface.__annotations__ = {"mixing": Mixing}  # TorchScript reads no text there


def test_a_method_that_is_called_is_not_forgotten(tmp_path: Path) -> None:
    """A submodule known by its interface alone is not inlined: its graph runs in every step."""
    whole = ByInterface().eval()
    torch.jit.script(whole).save(tmp_path / "model.pt")
    model = cna.load(tmp_path / "model.pt")
    with torch.inference_mode():
        want = whole(torch.tensor(IDS))[:, -1]
    assert (model.logits(IDS) - want).abs().max() <= 2e-5 * want.abs().max()


@needs_bf16
def test_joined_weights_are_rounded_once(exports: Any) -> None:
    hf = make_hf("llama")
    core = cna.load(exports("llama"), precision="bf16").core
    for _ in range(2):
        for name in ("q_proj", "k_proj", "v_proj"):
            path = f"model.layers.1.self_attn.{name}"
            weight = hf.get_submodule(path).weight.bfloat16().float()
            assert torch.equal(core.weight(f"model.{path}"), weight)
        core.to("cpu")


NO_ROOM = """
import sys, torch, cna
left = 10**9

def reorder(weight, rows=None):
    global left
    left -= 1
    if left < 0:
        raise MemoryError("no room for another weight")
    return weight.to_mkldnn()

library = torch.library.Library("mkldnn", "IMPL")
library.impl("_reorder_linear_weight", reorder, "CPU", allow_override=True)
core, plain = cna.load(sys.argv[1]).core, cna.load(sys.argv[1], fuse=False).core
ids, paths = [[5, 6, 7]], [f"model.model.layers.0.self_attn.{n}_proj" for n in "qkv"]
before = core.logits(ids)
left = 2
try:
    core.to("cpu")
except RuntimeError as error:
    print(str(error).split(";")[0])
left = 10**9
print(torch.equal(core.logits(ids), before))
print(all(torch.equal(core.weight(p), plain.weight(p)) for p in paths))
core.to("cpu")
print(torch.equal(core.logits(ids), before))
"""


def test_a_move_that_fails_half_way_leaves_all_as_it_was(exports: Any) -> None:
    run = run_script(NO_ROOM, exports("llama"))
    assert run.returncode == 0, run.stderr
    said, *rest = run.stdout.splitlines()
    assert said.startswith("to: expected a device 'cpu'") and "no room" in said
    assert rest == ["True", "True", "True"]
