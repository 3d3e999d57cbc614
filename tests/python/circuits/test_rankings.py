"""Rankings by share of the residual stream and along a direction, and which neurons may be chosen."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
import torch
from conftest import PROMPTS, down_projections, make_hf, make_tokenizer, random_ids

FAMILIES = ("llama", "gpt2", "gemma2", "olmo2")
K = 7


def plain(hf: Any, family: str, sides: Any) -> dict[str, np.ndarray]:
    """Activations, MLP outputs and residual streams at the last token, by plain hooks, float64.

    Arrays [prompts, layers, features]; and the write vectors [layers, hidden, width].
    """
    downs = down_projections(hf, family)
    blocks = hf.base_model.h if family == "gpt2" else hf.base_model.layers
    posts = [m for n, m in hf.named_modules() if n.endswith("post_feedforward_layernorm")]
    seen: dict[str, list[Any]] = {"a": [], "y": [], "x": []}
    hooks = []
    for down, block in zip(downs, blocks, strict=True):
        hooks += [
            down.register_forward_pre_hook(lambda _, args: seen["a"].append(args[0][0, -1])),
            down.register_forward_hook(lambda _, __, out: seen["y"].append(out[0, -1])),
            block.register_forward_hook(
                lambda _, __, out: seen["x"].append(
                    (out if isinstance(out, torch.Tensor) else out[0])[0, -1]
                )
            ),
        ]
    for prompts in sides:
        for ids in prompts:
            with torch.inference_mode():
                hf(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    n = len(downs)
    out = {
        name: np.stack([t.double().numpy() for t in rows]).reshape(-1, n, rows[0].shape[-1])
        for name, rows in seen.items()
    }
    write = np.stack([d.weight.detach().double().numpy() for d in downs])
    write = write.transpose(0, 2, 1) if family == "gpt2" else write
    if posts:
        gain = np.stack([p.weight.detach().double().numpy() for p in posts]) + ("gemma" in family)
        scale = (1 / np.sqrt((out["y"] ** 2).mean(-1))).mean(0)
        write = write * gain[:, :, None] * scale[:, None, None]
    return out | {"write": write}


@pytest.fixture(params=["live", "torchscript"])
def host(request: pytest.FixtureRequest, exports: Any) -> Any:
    def make(family: str) -> cna.Model:
        if request.param == "live":
            return cna.live(make_hf(family), make_tokenizer())
        return cna.load(exports(family))

    return make


def close(got: Any, expected: np.ndarray) -> bool:
    return bool(np.abs(np.asarray(got) - expected).max() <= 3e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_numpy(host: Any, family: str) -> None:
    model = host(family)
    ids = random_ids([5, 9, 7, 6, 8, 5, 6, 7])
    sides = ids[:4], ids[4:]
    found = plain(make_hf(family), family, sides)
    delta = found["a"][:4].mean(0) - found["a"][4:].mean(0)
    norm = np.linalg.norm(found["x"], axis=-1).mean(0)
    expected = delta * np.linalg.norm(found["write"], axis=1) / norm[:, None]
    _, score = model.core.scores(*sides, ranking="residual")
    assert close(score, expected)

    layer = 0
    v = found["x"][:4].mean(0)[layer] - found["x"][4:].mean(0)[layer]
    along = np.einsum("h,lhw->lw", v / np.linalg.norm(v), found["write"])
    expected = delta * along
    expected[layer + 1 :] = 0
    _, score = model.core.scores(*sides, ranking="direction", direction_layer=layer)
    assert close(score, expected)
    mine = torch.randn(model.hidden_size, generator=torch.Generator().manual_seed(0))
    unit = (mine / mine.norm()).double().numpy()
    _, score = model.core.scores(
        *sides, ranking="direction", direction_layer=model.n_layers - 1, direction=3 * mine
    )
    assert close(score, delta * np.einsum("h,lhw->lw", unit, found["write"]))


def test_a_whole_layer_covers_the_mlps_part_of_caa() -> None:
    """Summed over all neurons, the score of a direction is the MLPs' part of its length."""
    model = cna.live(make_hf(), make_tokenizer())
    sides = model.tokenize(PROMPTS[:4]), model.tokenize(PROMPTS[4:])
    last = model.n_layers - 1
    _, score = model.core.scores(*sides, ranking="direction", direction_layer=last)
    v = cna.caa(model, *sides, layers=[last]).vectors[last].double()
    outputs = model.record([*sides[0], *sides[1]], site="mlp_output").double()
    part = (outputs[:4].mean(0) - outputs[4:].mean(0)).sum(0) @ (v / v.norm())
    assert float(score.sum()) == pytest.approx(float(part), rel=1e-4)


def test_a_circuit_says_what_it_was_chosen_by(tiny: cna.Model) -> None:
    sides = tiny.tokenize(PROMPTS[:4]), tiny.tokenize(PROMPTS[4:])
    circuit = cna.discover(tiny, *sides, k=K, ranking="direction", direction_layer=1)
    _, score = tiny.core.scores(*sides, ranking="direction", direction_layer=1)
    flat = np.sort(score.numpy().ravel())[::-1]
    assert circuit.provenance["ranking"] == "direction"
    assert circuit.provenance["direction_layer"] == 1
    assert circuit.provenance["direction"] == "caa"
    assert circuit.provenance["side"] == "positive"
    assert circuit.provenance["coverage"] == pytest.approx(flat[:K].sum() / flat.sum())
    given = cna.discover(
        tiny, *sides, k=K, ranking="direction", direction=torch.ones(tiny.hidden_size)
    )
    assert given.provenance["direction"] == "given"
    assert given.provenance["direction_layer"] == 2 * tiny.n_layers // 3


@pytest.mark.parametrize("ranking", ["mean_difference", "effect_size", "contribution", "residual"])
def test_side_and_layers_bound_the_choice(tiny: cna.Model, ranking: str) -> None:
    sides = tiny.tokenize(PROMPTS[:4]), tiny.tokenize(PROMPTS[4:])
    _, score = tiny.core.scores(*sides, ranking=ranking)
    score = score.numpy()
    for side in ("positive", "both"):
        for layers in (None, (1, 1), range(0, 2), (-1, -1)):
            circuit = cna.discover(
                tiny, *sides, k=K, ranking=ranking, side=side, layers=layers, universal=None
            )
            ends = (0, 1) if layers is None or isinstance(layers, range) else layers
            low, high = (e % tiny.n_layers for e in ends)
            if layers is None:
                low, high = 0, tiny.n_layers - 1
            allowed = np.where(score > 0, score, 0) if side == "positive" else np.abs(score)
            allowed[:low], allowed[high + 1 :] = 0, 0
            best = np.argsort(-allowed.ravel(), kind="stable")[:K]
            expected = {divmod(int(i), tiny.width) for i in best}
            assert {(n.layer, n.index) for n in circuit} == expected, (side, layers)
            assert circuit.provenance["side"] == side
            assert circuit.provenance["layers"] == (
                None if (low, high) == (0, tiny.n_layers - 1) else [low, high]
            )


def test_what_cannot_be_chosen_is_said(tiny: cna.Model) -> None:
    sides = PROMPTS[:4], PROMPTS[4:]
    with pytest.raises(
        ValueError, match=r"^discover: expected side 'positive' or 'both', got 'up'"
    ):
        cna.discover(tiny, *sides, side="up")
    with pytest.raises(ValueError, match=r"^discover: expected layers=\(first, last\)"):
        cna.discover(tiny, *sides, layers=(0, 1, 2))
    with pytest.raises(IndexError, match=r"^discover: expected layers between 0 and"):
        cna.discover(tiny, *sides, layers=(0, 99))
    with pytest.raises(ValueError, match=r"^discover: expected a direction of \d+ features, got 3"):
        cna.discover(tiny, *sides, ranking="direction", direction=torch.ones(3))
    with pytest.raises(ValueError, match=r"^discover: expected a finite direction of some length"):
        zeros = torch.zeros(tiny.hidden_size)
        cna.discover(tiny, *sides, ranking="direction", direction=zeros)
    with pytest.raises(IndexError, match=r"^discover: expected a direction's layer below"):
        cna.discover(tiny, *sides, ranking="direction", direction_layer=99)
