"""Layers of unlike width, and blocks without an MLP: a layer keeps its own number."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pytest
import torch
from conftest import make_hf, make_tokenizer, random_ids
from live_oracle import close
from safetensors.torch import load_file
from torch import nn

IDS = random_ids([3, 7, 12, 5, 9, 4], seed=3)
WIDTHS = {"all": [64, 24, 48, 96], "missing": [64, 0, 48, 96], "first": [0, 24, 0, 96]}


class NoMlp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def uneven(kind: str) -> Any:
    """A Llama whose blocks have MLPs of other widths, or none."""
    hf = copy.deepcopy(make_hf("llama"))
    for layer, width in zip(hf.model.layers, WIDTHS[kind], strict=True):
        if not width:
            layer.mlp = NoMlp()
        elif width != 64:
            torch.manual_seed(width)
            mlp = layer.mlp
            mlp.gate_proj, mlp.up_proj = (nn.Linear(32, width, bias=False) for _ in range(2))
            mlp.down_proj = nn.Linear(width, 32, bias=False)
            for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj):
                part.weight.data.mul_(3.0)
    return hf.eval()


def downs(hf: Any) -> dict[int, Any]:
    return {
        i: layer.mlp.down_proj
        for i, layer in enumerate(hf.model.layers)
        if hasattr(layer.mlp, "down_proj")
    }


def plain(hf: Any, ids: list[list[int]]) -> tuple[dict[int, np.ndarray], torch.Tensor]:
    """({layer: [prompts, width]}, logits [prompts, vocab]) of plain hooks, one prompt at a time."""
    rows: dict[int, list[np.ndarray]] = {layer: [] for layer in downs(hf)}
    hooks = [
        down.register_forward_pre_hook(
            lambda _, args, layer=layer: rows[layer].append(args[0][0, -1].detach().numpy().copy())
        )
        for layer, down in downs(hf).items()
    ]
    with torch.no_grad():
        logits = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])
    for hook in hooks:
        hook.remove()
    return {layer: np.stack(found) for layer, found in rows.items()}, logits


def expected_top(acts: dict[int, np.ndarray], k: int) -> list[tuple[int, int]]:
    order = []
    for layer, a in acts.items():
        a = a.astype(np.float64)
        delta = a[:3].mean(0) - a[3:].mean(0)
        order += [(-abs(d), layer, j) for j, d in enumerate(delta)]
    return [(layer, j) for _, layer, j in sorted(order)[:k]]


def hold(model: cna.Model, hf: Any, kind: str) -> cna.Circuit:
    """Recordings, discovery, steering and answers against plain hooks."""
    acts, logits = plain(hf, IDS)
    assert model.widths == WIDTHS[kind] and model.n_neurons == sum(WIDTHS[kind])
    assert (model.n_layers, model.width) == (4, 96)
    got = cna.record(model, IDS, progress=False)
    assert got.shape == (len(IDS), sum(WIDTHS[kind]))
    for layer, part in enumerate(cna.by_layer(model, got)):
        assert part.shape == (len(IDS), WIDTHS[kind][layer])
        if layer in acts:
            assert close(part, acts[layer], 1e-4)
    circuit = cna.discover(model, IDS[:3], IDS[3:], k=11, universal=None, progress=False)
    assert [(n.layer, n.index) for n in circuit] == expected_top(acts, 11)
    assert circuit.widths == WIDTHS[kind]
    assert [c for c, w in zip(circuit.layer_counts, WIDTHS[kind], strict=True) if not w] in (
        [],
        [0],
        [0, 0],
    )
    steered = copy.deepcopy(hf)
    for n in circuit:
        steered.model.layers[n.layer].mlp.down_proj.weight.data[:, n.index] = 0
    with model.steer(circuit, 0.0):
        assert close(model.logits(IDS), plain(steered, IDS)[1], 1e-4)
        assert not close(model.logits(IDS), logits, 1e-4)
    with model.steer(circuit, 1.0):
        assert torch.equal(model.logits(IDS), model.logits(IDS))
    return circuit


@pytest.mark.parametrize("kind", WIDTHS)
def test_a_live_model_of_uneven_layers_is_the_plain_model(kind: str) -> None:
    hf = uneven(kind)
    model = cna.live(hf, make_tokenizer())
    circuit = hold(model, hf, kind)
    # What stands for no neuron is never drawn, counted or ranked.
    for seed in range(5):
        drawn = cna.random_like(circuit, seed)
        assert drawn.layer_counts == circuit.layer_counts
        assert all(n.index < WIDTHS[kind][n.layer] for n in drawn)
    every = cna.discover(model, IDS[:3], IDS[3:], fraction=1.0, universal=None, progress=False)
    assert len(every) == sum(WIDTHS[kind])
    for ranking in ("contribution", "residual", "direction", "effect_size"):
        found = cna.discover(
            model, IDS[:3], IDS[3:], k=5, ranking=ranking, universal=None, progress=False
        )
        assert len(found) == 5 and all(n.index < WIDTHS[kind][n.layer] for n in found)


def test_contributions_of_uneven_layers_equal_numpy() -> None:
    hf = uneven("missing")
    model = cna.live(hf, None)
    got = cna.contributions(model, IDS[:3], IDS[3:], penalty=0.2, progress=False).numpy()
    acts, logits = plain(hf, IDS)
    p = torch.softmax(logits.double(), -1).numpy()
    gain = hf.model.norm.weight.detach().double().numpy()
    u = hf.lm_head.weight.detach().double().numpy().T @ (p[:3].mean(0) - p[3:].mean(0)) * gain
    u /= np.linalg.norm(u)
    for layer, a in acts.items():
        w = downs(hf)[layer].weight.detach().double().numpy()
        a = a.astype(np.float64)
        expected = (w.T @ u) * a[:3].mean(0)
        expected -= 0.2 * np.abs(a[3:]).mean(0) * np.linalg.norm(w, axis=0)
        assert close(got[layer, : len(expected)], expected, 1e-4)
        assert not got[layer, len(expected) :].any()
    assert not got[1].any()


def test_the_stream_behind_a_block_without_an_mlp_is_recorded() -> None:
    hf = uneven("missing")
    seen: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[0, -1].detach().clone()))
        for block in hf.model.layers
    ]
    with torch.no_grad():
        hf(torch.tensor([IDS[2]]))
    for hook in hooks:
        hook.remove()
    model = cna.live(hf, None)
    assert close(model.record([IDS[2]], site="residual")[0], torch.stack(seen), 1e-4)
    vectors = cna.caa(model, IDS[:3], IDS[3:], progress=False)
    assert set(vectors.vectors) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["all", "missing"])
def test_an_export_of_uneven_layers_is_the_plain_model(kind: str, tmp_path: Path) -> None:
    hf = uneven(kind)
    folder = cna.export(hf, make_tokenizer(), tmp_path / "m")
    assert json.loads((folder / "manifest.json").read_text())["widths"] == WIDTHS[kind]
    circuit = hold(cna.load(folder), hf, kind)
    assert circuit == cna.Circuit.from_json(circuit.to_json())
    assert cna.live(hf, None).widths == cna.load(folder).widths


def test_an_uneven_circuit_survives_its_file_and_is_refused_elsewhere(tmp_path: Path) -> None:
    model = cna.live(uneven("all"), None)
    circuit = cna.discover(model, IDS[:3], IDS[3:], k=11, universal=None, progress=False)
    circuit.save(tmp_path / "c.json")
    assert cna.Circuit.load(tmp_path / "c.json") == circuit
    other = cna.live(uneven("missing"), None)
    with pytest.raises(ValueError, match="with other widths; discover it on this model"):
        with other.steer(circuit, 0.0):
            pass
    even = cna.Circuit((4, 96), list(circuit.neurons))
    assert even != circuit and "widths" not in even.to_json()
    with pytest.raises(ValueError, match="other widths"), model.steer(even, 0.0):
        pass


@pytest.mark.parametrize("format", ["hf", "peft"])
def test_an_uneven_circuit_converts(format: str, tmp_path: Path) -> None:
    hf = uneven("all")
    hf.save_pretrained(tmp_path / "hf")
    model = cna.live(hf, None)
    circuit = cna.discover(model, IDS[:3], IDS[3:], k=11, universal=None, progress=False)
    cna.convert(
        circuit, tmp_path / "hf", tmp_path / "out", format=format, multiplier=0.0, quiet=True
    )
    name = "model.safetensors" if format == "hf" else "adapter_model.safetensors"
    tensors = load_file(tmp_path / "out" / name)
    for layer, down in downs(hf).items():
        mine = [n.index for n in circuit if n.layer == layer]
        expected = down.weight.detach().clone()
        expected[:, mine] = 0
        stem = f"model.layers.{layer}.mlp.down_proj"
        if format == "hf":
            assert torch.equal(tensors[f"{stem}.weight"], expected)
        elif mine:
            a = next(t for n, t in tensors.items() if f"{stem}.lora_A" in n)
            b = next(t for n, t in tensors.items() if f"{stem}.lora_B" in n)
            assert close(down.weight.detach() + b @ a, expected, 1e-5)


def test_stability_and_the_permutation_test_know_which_places_are_neurons() -> None:
    model = cna.live(uneven("missing"), None)
    sets = IDS[:3], IDS[3:]
    found = cna.analysis.stability(
        model, *sets, k=9, universal=None, n_bootstrap=5, n_halves=2, progress=False
    )
    circuit = cna.discover(model, *sets, k=9, universal=None, progress=False)
    assert [n[:2] for n in map(tuple, found.circuit)] == [n[:2] for n in map(tuple, circuit)]
    assert found.circuit.widths == circuit.widths
    data = cna.analysis.record_sets(model, *sets, universal=None, progress=False)
    null = cna.analysis.permutation_null(data, k=9, n=20)
    assert np.isnan(null.p_value[1]).all() and np.isnan(null.p_value[2, 48:]).all()
    assert np.isfinite(null.p_value[2, :48]).all() and len(null.table) == 9


def test_two_mlps_in_one_block_are_refused() -> None:
    hf = copy.deepcopy(make_hf("llama"))
    for layer in hf.model.layers:
        layer.self_attn.mlp = copy.deepcopy(layer.mlp)
        forward = layer.self_attn.forward

        def with_both(
            *args: Any, forward: Any = forward, mlp: Any = layer.self_attn.mlp, **kw: Any
        ):  # type: ignore[no-untyped-def]
            out, *rest = forward(*args, **kw)
            return (out + mlp(out), *rest)

        layer.self_attn.forward = with_both
    with pytest.raises(
        ValueError, match=r"live: expected one MLP in each block, .* behind '.*layers\.0"
    ):
        cna.live(hf, None)


@pytest.mark.parametrize("kind", ["all", "missing"])
def test_an_uneven_circuit_converts_to_gguf(kind: str, tmp_path: Path) -> None:
    """Patched rows of ffn_up and the adapter of ffn_down, each layer with its own width."""
    gguf = pytest.importorskip("gguf")
    model = cna.live(uneven(kind), None)
    circuit = cna.discover(model, IDS[:3], IDS[3:], k=11, universal=None, progress=False)
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(tmp_path / "old.gguf", "llama")
    writer.add_block_count(4)
    writer.add_feed_forward_length([w or 0 for w in WIDTHS[kind]])
    for layer, width in enumerate(WIDTHS[kind]):
        names = {"ffn_gate": (width, 32), "ffn_up": (width, 32), "ffn_down": (32, width)}
        for name, shape in names.items() if width else ():
            writer.add_tensor(
                f"blk.{layer}.{name}.weight", rng.normal(0, 1, shape).astype(np.float32)
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    old = {t.name: t.data.copy() for t in gguf.GGUFReader(tmp_path / "old.gguf").tensors}
    for format in ("gguf", "gguf-lora"):
        cna.convert(
            circuit,
            tmp_path / "old.gguf",
            tmp_path / f"{format}.gguf",
            format=format,
            multiplier=-0.5,
            quiet=True,
        )
    patched = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "gguf.gguf").tensors}
    adapter = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "gguf-lora.gguf").tensors}
    for layer, width in enumerate(WIDTHS[kind]):
        mine = [n.index for n in circuit if n.layer == layer]
        if not mine:
            continue
        factor = np.ones(width, np.float32)
        factor[mine] = -0.5
        up, down = (f"blk.{layer}.{name}.weight" for name in ("ffn_up", "ffn_down"))
        assert np.array_equal(patched[up], old[up] * factor[:, None])
        total = old[down] + adapter[f"{down}.lora_b"] @ adapter[f"{down}.lora_a"]
        assert close(total, old[down] * factor, 1e-5)


@pytest.mark.parametrize("kind", ["all", "missing"])
def test_the_doctor_passes_an_uneven_model(kind: str, tmp_path: Path) -> None:
    from cna.cli import main

    cna.export(uneven(kind), make_tokenizer(), tmp_path / "m")
    assert main(["doctor", str(tmp_path / "m")]) == 0


@pytest.mark.parametrize("kind", ["all", "missing"])
def test_an_uneven_circuit_converts_to_the_other_files(kind: str, tmp_path: Path) -> None:
    from cna.ship import load_control_vector, read_authors_json

    hf = uneven(kind)
    model = cna.live(hf, None)
    circuit = cna.discover(model, IDS[:3], IDS[3:], k=11, universal=None, progress=False)
    cna.convert(circuit, None, tmp_path / "a.json", format="authors-json", quiet=True)
    again = read_authors_json(tmp_path / "a.json", circuit.shape, circuit.widths)
    assert again.widths == circuit.widths and again.neurons == circuit.neurons
    late = {"layers": (1, 3), "k": 11, "universal": None, "progress": False}
    circuit = cna.discover(model, IDS[:3], IDS[3:], **late)  # llama.cpp has none for layer 0
    shift = cna.Operation.shift(circuit)
    cna.convert(shift, model, tmp_path / "v.gguf", format="control-vector", quiet=True)
    vectors = load_control_vector(tmp_path / "v.gguf")
    assert set(vectors) == {n.layer for n in circuit}
    for layer, vector in vectors.items():
        delta = np.zeros(WIDTHS[kind][layer])
        for n in circuit:
            if n.layer == layer:
                delta[n.index] = n.delta
        expected = downs(hf)[layer].weight.detach().double().numpy() @ -delta
        assert close(np.asarray(vector, dtype=np.float64), expected, 1e-5)
