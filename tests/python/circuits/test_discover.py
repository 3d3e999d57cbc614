"""Discovery gives the very neurons of a NumPy float64 oracle."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
import torch
from conftest import PROMPTS, hf_record, make_hf, oracle_top_k

POSITIVE = [f"{p} yes {i}" for i, p in enumerate(PROMPTS * 3)]
NEGATIVE = [f"no {i}: {p}" for i, p in enumerate(PROMPTS * 2)]


@pytest.fixture(scope="module")
def recorded(tiny: cna.Model, tiny_hf: Any) -> tuple[np.ndarray, np.ndarray]:
    return hf_record(tiny_hf, tiny.tokenize(POSITIVE)), hf_record(tiny_hf, tiny.tokenize(NEGATIVE))


def test_record_equals_hooks_bit_for_bit_unbatched(
    exports: Any, recorded: tuple[np.ndarray, np.ndarray]
) -> None:
    plain = cna.load(exports("llama"), fuse=False)
    got = cna.record(plain, POSITIVE, batch_size=1, share_prefix=False)
    assert got.dtype == torch.float32 and got.shape == (len(POSITIVE), 4, 64)
    assert np.array_equal(got.numpy(), recorded[0])


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_record_with_shared_prefix_agrees(
    tiny: cna.Model, recorded: tuple[np.ndarray, np.ndarray], batch_size: int
) -> None:
    got = cna.record(tiny, POSITIVE, batch_size=batch_size).numpy()
    assert np.abs(got - recorded[0]).max() <= 1e-4 * np.abs(recorded[0]).max()


@pytest.mark.parametrize("side", ["left", "right"])
def test_record_ignores_padding_on_either_side(
    tiny: cna.Model, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.tokenizer, "padding_side", side)
    batch = tiny.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    first, last = (bool((batch["attention_mask"][:, at] == 0).any()) for at in (0, -1))
    assert (first, last) == (side == "left", side == "right")
    ids = cna._core.unpad(batch["input_ids"], batch["attention_mask"])
    assert ids == tiny.tokenize(PROMPTS, chat=False)
    got = cna.record(tiny, ids)
    assert torch.equal(got, cna.record(tiny, PROMPTS, chat=False))


@pytest.mark.parametrize("batch_size", [1, 7, 32])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_discover_gives_the_neurons_of_the_oracle(
    tiny: cna.Model, recorded: tuple[np.ndarray, np.ndarray], batch_size: int, k: int
) -> None:
    circuit = cna.discover(tiny, POSITIVE, NEGATIVE, k=k, universal=None, batch_size=batch_size)
    assert [(n.layer, n.index) for n in circuit] == oracle_top_k(*recorded, k)
    delta = recorded[0].astype(np.float64).mean(0) - recorded[1].astype(np.float64).mean(0)
    for neuron in circuit:
        assert neuron.delta == pytest.approx(delta[neuron.layer, neuron.index], abs=1e-4)


def test_the_default_fraction_is_a_thousandth_of_all_neurons(tiny: cna.Model) -> None:
    assert len(cna.discover(tiny, POSITIVE, NEGATIVE, universal=None)) == 1
    assert len(cna.discover(tiny, POSITIVE, NEGATIVE, fraction=0.5, universal=None)) == 128
    assert len(cna.discover(tiny, POSITIVE, NEGATIVE, fraction=1.0, universal=None)) == 256


def test_universal_neurons_are_counted_as_the_paper_says(tiny: cna.Model, tiny_hf: Any) -> None:
    prompts = cna.prompts.universal_prompts()
    activations = np.abs(hf_record(tiny_hf, tiny.tokenize(prompts))).reshape(len(prompts), -1)
    top = max(1, round(0.02 * 256))
    hits = np.zeros(256, dtype=int)
    for row in activations:
        hits[np.argsort(-row, kind="stable")[:top]] += 1
    expected = [divmod(int(i), 64) for i in np.flatnonzero(hits >= np.ceil(0.8 * len(prompts)))]
    found = cna.universal_neurons(tiny, prompts, top_fraction=0.02)
    assert expected and list(found.neurons) == expected
    assert found.n_prompts == len(prompts)


def test_universal_neurons_leave_before_the_top_k_is_taken(
    tiny: cna.Model, recorded: tuple[np.ndarray, np.ndarray]
) -> None:
    plain = cna.discover(tiny, POSITIVE, NEGATIVE, k=10, universal=None)
    removed = {(n.layer, n.index) for n in plain.neurons[:3]}
    universal = cna.UniversalNeurons(tuple(sorted(removed)), 10, 0.8, 0.001, "test")
    circuit = cna.discover(tiny, POSITIVE, NEGATIVE, k=10, universal=universal)
    assert len(circuit) == 10
    assert [(n.layer, n.index) for n in circuit] == oracle_top_k(*recorded, 10, removed)
    assert set(circuit.universal_removed) == removed


def test_effect_size_divides_by_the_pooled_deviation(
    tiny: cna.Model, recorded: tuple[np.ndarray, np.ndarray]
) -> None:
    a, b = (r.astype(np.float64) for r in recorded)
    pooled = ((len(a) - 1) * a.var(0, ddof=1) + (len(b) - 1) * b.var(0, ddof=1)) / (
        len(a) + len(b) - 2
    )
    score = np.abs((a.mean(0) - b.mean(0)) / np.sqrt(pooled)).ravel()
    best = {divmod(int(i), 64) for i in np.argsort(-score)[:8]}
    circuit = cna.discover(tiny, POSITIVE, NEGATIVE, k=8, universal=None, ranking="effect_size")
    assert {(n.layer, n.index) for n in circuit} == best


def test_provenance_says_how_a_circuit_was_found(tiny: cna.Model) -> None:
    circuit = cna.discover(tiny, POSITIVE, NEGATIVE, fraction=0.1)
    p = circuit.provenance
    assert p["model_id"] == "llama" and p["fraction"] == 0.1 and p["k"] == 26
    assert p["positive_prompts"] == len(POSITIVE) and p["negative_prompts"] == len(NEGATIVE)
    assert len(p["weights_hash"]) == 64 and p["dtype"] == "float32"
    assert p["universal_filter"]["prompts"] == len(cna.prompts.universal_prompts())
    assert p["cna_version"] == cna.__version__
    other = cna.discover(tiny, POSITIVE[1:], NEGATIVE, fraction=0.1)
    assert other.provenance["prompt_hash"] != p["prompt_hash"]


def test_moments_merge_exactly(tiny: cna.Model) -> None:
    ids, other = tiny.tokenize(POSITIVE), tiny.tokenize(NEGATIVE)
    whole, _ = tiny.core.contrast(ids, other)
    left, _ = tiny.core.contrast(ids[:5], other)
    right, _ = tiny.core.contrast(ids[5:], other)
    merged = cna._core.merge_moments(left, right)
    assert merged["count"] == whole["count"] == len(ids)
    assert torch.allclose(merged["mean"], whole["mean"], rtol=0, atol=1e-5)
    assert torch.allclose(merged["m2"], whole["m2"], rtol=1e-3, atol=1e-5)


def test_streaming_hands_over_each_prompt_once(tiny: cna.Model) -> None:
    seen: dict[int, torch.Tensor] = {}

    def sink(rows: list[int], activations: torch.Tensor) -> None:
        seen.update(zip(rows, activations.clone(), strict=True))

    tiny.core.record_stream(tiny.tokenize(POSITIVE), "neuron", sink, batch_rows=5)
    assert sorted(seen) == list(range(len(POSITIVE)))
    everything = cna.record(tiny, POSITIVE, batch_size=5)
    assert all(torch.equal(everything[i], seen[i]) for i in seen)


def test_two_models_never_meet(exports: Any) -> None:
    """Two threads, two models: each gives what it gives alone."""
    import threading

    models = [cna.load(exports("llama")), cna.load(exports("qwen2"))]
    alone = [cna.discover(m, POSITIVE, NEGATIVE, k=9, universal=None) for m in models]
    results: list[list[cna.Circuit]] = [[], []]

    def work(i: int) -> None:
        for _ in range(4):
            circuit = cna.discover(
                models[i], POSITIVE, NEGATIVE, k=9, universal=None, progress=False
            )
            with models[i].steer(circuit, 0.0):
                models[i].generate(PROMPTS[:3], max_new_tokens=3, progress=False)
            results[i].append(circuit)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert len(results[i]) == 4
        assert all(c.neurons == alone[i].neurons for c in results[i])


def test_bfloat16_keeps_the_top_neurons_of_its_own_oracle(exports: Any) -> None:
    hf, model = make_hf("llama", torch.bfloat16), cna.load(exports("llama", torch.bfloat16))
    a = cna.record(model, POSITIVE, batch_size=1, share_prefix=False).numpy()
    b = cna.record(model, NEGATIVE, batch_size=1, share_prefix=False).numpy()
    assert np.array_equal(a, hf_record(hf, model.tokenize(POSITIVE)))
    circuit = cna.discover(
        model, POSITIVE, NEGATIVE, k=20, universal=None, batch_size=1, share_prefix=False
    )
    assert [(n.layer, n.index) for n in circuit] == oracle_top_k(a, b, 20)
