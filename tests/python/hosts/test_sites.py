"""Taps go where a text prompt passes, and a layer keeps its own number."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.hosts.step import quiet_tracing
from conftest import make_hf, random_ids
from families import build
from live_oracle import close

IDS = random_ids([3, 7, 12], seed=9)


def test_mlps_that_no_text_reaches_get_no_tap() -> None:
    """Gemma 3's vision tower has MLPs that match the pattern, of another width."""
    hf, downs = build("gemma3_vision")
    matching = [n for n, _ in hf.named_modules() if n.endswith(("mlp.fc2", "mlp.down_proj"))]
    assert len(matching) > len(downs)
    model = cna.live(hf, None)
    assert model.n_layers == len(downs)
    assert all("language_model" in site for site in model.core.neuron_sites)


def bare_trace(hf: Any, folder: Path) -> Path:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hf = hf

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.hf(ids, use_cache=False).logits

    hf.set_attn_implementation("eager")
    with torch.no_grad(), quiet_tracing():
        traced = torch.jit.trace(Plain(), torch.randint(0, 9, (1, 6)), check_trace=False)
        traced.save(folder / "bare.pt")
    return folder / "bare.pt"


@pytest.mark.parametrize("host", ["live", "export", "load"])
def test_layers_that_a_pattern_leaves_out_leave_the_others_their_numbers(
    host: str, tmp_path: Path
) -> None:
    """A pattern for layers 1 and 3: their circuits name layers 1 and 3."""
    odd = r"layers\.[13]\.mlp\.down_proj$"
    hf = copy.deepcopy(make_hf("llama"))
    makers = {
        "live": lambda: cna.live(hf, None, pattern=odd),
        "export": lambda: cna.load(cna.export(hf, None, tmp_path / "m", tap_pattern=odd)),
        "load": lambda: cna.load(bare_trace(hf, tmp_path), pattern=odd),
    }
    model = makers[host]()
    assert model.widths == [0, 64, 0, 64]
    whole = cna.live(copy.deepcopy(make_hf("llama")), None)
    expected = whole.record(IDS)
    assert close(model.record(IDS)[:, [1, 3]], expected[:, [1, 3]], 1e-4)
    assert not model.record(IDS)[:, [0, 2]].any()
    circuit = cna.discover(model, IDS[:2], IDS[2:], k=20, universal=None, progress=False)
    assert {n.layer for n in circuit} == {1, 3}
    first = cna.live(hf, None, pattern=r"layers\.[01]\.mlp\.down_proj$")
    assert first.n_layers == 2


def test_an_mlp_that_runs_twice_is_refused() -> None:
    hf = copy.deepcopy(make_hf("llama"))
    forward = hf.model.layers[2].mlp.forward
    hf.model.layers[2].mlp.forward = lambda x: forward(forward(x))
    with pytest.raises(ValueError, match=r"got 'model\.layers\.2.* running 2 times among 4"):
        cna.live(hf, None)


def test_a_residual_stream_that_is_another_is_not_recorded(tmp_path: Path) -> None:
    """A family whose block scales its output behind the last sum, as newer ones do."""
    hf = make_hf.__wrapped__("llama")  # another test may have hooked the shared one

    class Scaled(type(hf.model.layers[0])):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs) * 1.5

    for layer in hf.model.layers:
        layer.__class__ = Scaled
    live = cna.live(hf, None)
    blocks: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: blocks.append(out[0, -1].detach()))
        for layer in hf.model.layers
    ]
    with torch.no_grad():
        hf(torch.tensor([IDS[1]]))
    for hook in hooks:
        hook.remove()
    expected = torch.stack(blocks)
    assert close(live.record([IDS[1]], site="residual")[0], expected, 1e-4)
    exported = cna.load(cna.export(hf, None, tmp_path / "m"))
    assert close(exported.record(IDS), live.record(IDS), 1e-4)
    assert close(exported.logits(IDS), live.logits(IDS), 1e-4)
    with pytest.raises(ValueError, match="expected a model whose residual stream was found"):
        exported.record([IDS[1]], site="residual")


def test_blocks_with_several_streams_have_no_residual_site() -> None:
    """As Gemma 3n's, whose layers pass on four: neurons are recorded, the stream is not."""
    hf = make_hf.__wrapped__("llama")

    class Four(type(hf.model.layers[0])):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(x if x.dim() == 3 else x[0], *args, **kwargs)
            return out if self is hf.model.layers[-1] else torch.stack([out] * 4)

    for layer in hf.model.layers:
        layer.__class__ = Four
    model = cna.live(hf, None)
    plain = cna.live(copy.deepcopy(make_hf("llama")), None)
    assert close(model.record(IDS), plain.record(IDS), 1e-4)
    with pytest.raises(ValueError, match="expected a model whose residual stream was found"):
        model.record(IDS, site="residual")


@pytest.mark.parametrize("name", ["bloom", "doge", "falcon", "falcon-one-key", "falcon-alibi"])
def test_what_cannot_be_exported_is_refused_at_once(name: str, tmp_path: Path) -> None:
    hf, _ = build(name)
    with pytest.raises(
        ValueError, match=r"^export: expected .*; run it as it is: cna\.live\("
    ) as e:
        cna.export(hf, None, tmp_path / "m")
    assert "\n" not in str(e.value)
    assert not any(tmp_path.iterdir())
