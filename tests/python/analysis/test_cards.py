"""Neuron cards against plain hooks, a direct product, and NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
import torch
from cna.analysis.contexts import default_texts
from cna.tasks import Task
from conftest import PROMPTS, hf_record, make_hf
from every_token import plain

TEXTS = [
    f"{word} is a word, number {i}" for i, word in enumerate("red blue tall one two six".split())
]


@pytest.fixture(scope="module")
def task() -> Task:
    return Task("t", "", PROMPTS[:4], PROMPTS[4:], ["x"], ["y"])


@pytest.fixture(scope="module")
def cards(tiny: cna.Model, circuit: cna.Circuit, task: Task) -> cna.Cards:
    return circuit.cards(tiny, TEXTS, task=task, n=3, n_bootstrap=50, progress=False)


def test_strongest_tokens_are_those_of_plain_hooks(
    tiny: cna.Model, circuit: cna.Circuit, cards: cna.Cards
) -> None:
    ids = tiny.tokenize(TEXTS, chat=False)
    seen = plain(make_hf("llama"), circuit, ids)
    for j, card in enumerate(cards):
        for sign, found in ((1, card.strongest), (-1, card.weakest)):
            best = [(sign * rows[1:, j]).max() for rows in seen]
            order = np.argsort(best)[::-1][:3]
            assert [c.text for c in found] == order.tolist()
            for context in found:
                place = 1 + int((sign * seen[context.text][1:, j]).argmax())
                assert context.activation == pytest.approx(seen[context.text][place, j], rel=1e-4)
                assert context.token == tiny.decode([ids[context.text][place]])
                whole = context.before + context.token + context.after
                assert whole in TEXTS[context.text] and context.token


def test_the_rows_of_early_neurons_are_read_off_the_embeddings(
    tiny: cna.Model, task: Task, exports: Any
) -> None:
    hf, first = make_hf("llama"), [(0, 5, 1.0), (0, 40, -2.0), (2, 3, 3.0)]
    circuit = cna.Circuit((4, 64), [cna.Neuron(*x) for x in first])
    cards = circuit.cards(tiny, TEXTS[:2], n=3, ablation=False, progress=False)
    e = hf.model.embed_tokens.weight.double()
    layer = hf.model.layers[0]
    unit = (
        layer.post_attention_layernorm.weight.double()
        * e
        / e.square().mean(-1, True).sqrt().clamp_min(1e-12)
    )
    early = 0
    for neuron, card in zip(circuit, cards, strict=True):
        if neuron.layer > 0:  # the first eighth of four layers is one
            assert not card.gate_reads and not card.up_reads
            continue
        early += 1
        gate = unit @ layer.mlp.gate_proj.weight[neuron.index].double()
        up = (unit @ layer.mlp.up_proj.weight[neuron.index].double()).abs()
        for found, want in ((card.gate_reads, gate), (card.up_reads, up)):
            assert [v for _, v in found] == pytest.approx(want.topk(3).values.tolist(), rel=1e-4)
            assert [t for t, _ in found] == [
                tiny.decode([i]) for i in want.topk(3).indices.tolist()
            ]
        assert "gate reads" in card.html()
    assert early == 2
    frame = cards.to_frame()
    assert (frame.gate_reads == "").sum() == 1
    other = cna.load(exports("gemma2"))  # its norm's gain is stored otherwise: no reading, no guess
    alien = cna.Circuit((4, 64), [cna.Neuron(0, 1, 1.0)])
    assert not alien.cards(other, TEXTS[:1], ablation=False, progress=False)[0].gate_reads


def test_the_reading_is_a_direct_product(circuit: cna.Circuit, cards: cna.Cards) -> None:
    hf = make_hf("llama")
    head, gain = hf.lm_head.weight.double(), hf.model.norm.weight.double()
    for neuron, card in zip(circuit, cards, strict=True):
        write = hf.model.layers[neuron.layer].mlp.down_proj.weight[:, neuron.index].double()
        logits = head @ (gain * write)
        best = logits.argsort(descending=True)
        assert [v for _, v in card.raises] == pytest.approx(logits[best[:3]].tolist(), rel=1e-4)
        assert [v for _, v in card.lowers] == pytest.approx(
            logits[best.flip(0)[:3]].tolist(), rel=1e-4
        )


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_the_reading_goes_through_every_norm(family: str, exports: Any) -> None:
    """GPT-2's final norm takes the mean off; Gemma has a norm behind each MLP, and 1 + w as gain."""
    hf = make_hf(family)
    model = cna.load(exports(family))
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=6, universal=None, progress=False)
    got = model.core.logits_written(circuit)
    for neuron, row in zip(circuit, got, strict=True):
        if family == "gpt2":
            block = hf.transformer.h[neuron.layer]
            write = block.mlp.c_proj.weight[neuron.index].double()
            write = (write - write.mean()) * hf.transformer.ln_f.weight.double()
            head = hf.lm_head.weight.double()
        else:
            block = hf.model.layers[neuron.layer]
            write = block.mlp.down_proj.weight[:, neuron.index].double()
            write = write * (1 + block.post_feedforward_layernorm.weight.double())
            write = write * (1 + hf.model.norm.weight.double())
            head = hf.lm_head.weight.double()
        np.testing.assert_allclose(row, (head @ write).detach(), rtol=1e-3, atol=1e-4)


def test_numbers_are_those_of_numpy(
    tiny: cna.Model, circuit: cna.Circuit, cards: cna.Cards, task: Task
) -> None:
    hf = make_hf("llama")
    a, b = (
        hf_record(hf, tiny.tokenize(p)).astype(np.float64) for p in (task.positive, task.negative)
    )
    scores = cna.contributions(tiny, task.positive, task.negative, progress=False)
    ids = tiny.tokenize(task.positive)
    said = tiny.generate(ids, 8, return_tokens=True, progress=False)
    for neuron, card in zip(circuit, cards, strict=True):
        x, y = a[:, neuron.layer, neuron.index], b[:, neuron.layer, neuron.index]
        sd = np.sqrt(((x - x.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum()) / np.sqrt(6)
        assert card.numbers["effect_size"] == pytest.approx((x.mean() - y.mean()) / sd, rel=1e-4)
        assert card.numbers["mean_positive"] == pytest.approx(x.mean(), rel=1e-4)
        assert card.numbers["contribution"] == float(scores[neuron.layer, neuron.index])
        histogram = card.histogram()
        assert histogram["positive"].sum() == 4 and histogram["negative"].sum() == 4
        low = histogram["low"][histogram["positive"] > 0].min()
        assert low <= x.min() + 1e-6
    # What its ablation alone changes: KL along the model's own answers, by a plain hook.
    neuron = circuit[0]

    def logits(prompt: list[int], answer: list[int]) -> torch.Tensor:
        with torch.no_grad():
            out = hf(torch.tensor([prompt + answer])).logits[0].double()
        return out[len(prompt) - 1 : -1].log_softmax(-1)

    before = [logits(p, s) for p, s in zip(ids, said, strict=True) if s]

    def zero(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = args[0].clone()
        x[..., neuron.index] = 0
        return (x,)

    hook = hf.model.layers[neuron.layer].mlp.down_proj.register_forward_pre_hook(zero)
    after = [logits(p, s) for p, s in zip(ids, said, strict=True) if s]
    hook.remove()
    kl = [float((x.exp() * (x - y)).sum(-1).mean()) for x, y in zip(before, after, strict=True)]
    assert cards[0].numbers["ablation_kl"] == pytest.approx(np.mean(kl), rel=1e-3)


def test_cards_are_a_table_and_a_page(cards: cna.Cards, tmp_path: Path) -> None:
    frame = cards.to_frame()
    assert len(frame) == len(cards) == 12 and frame["rank"].tolist() == list(range(12))
    wanted = {
        "delta",
        "effect_size",
        "contribution",
        "ablation_kl",
        "stability",
        "raises",
        "weakest",
    }
    assert wanted <= set(frame)
    assert frame["stability"].between(0, 1).all()
    assert frame["stability"].tolist() == [card.numbers["stability"] for card in cards]
    cards.save(tmp_path / "out")
    page = (tmp_path / "out" / "neurons.html").read_text()
    assert page.count("<svg") == 12 and "<script" not in page and "a linear reading" in page
    assert len(pd.read_csv(tmp_path / "out" / "neurons.csv")) == 12
    assert "layer" in cards[0]._repr_html_()
    assert cna.neurons.cards is not None


def test_a_part_is_as_stable_as_in_its_circuit(
    tiny: cna.Model, circuit: cna.Circuit, cards: cna.Cards, task: Task
) -> None:
    part = circuit[3:5].cards(
        tiny, TEXTS[:2], task=task, n_bootstrap=50, ablation=False, progress=False
    )
    assert [c.numbers["stability"] for c in part] == [c.numbers["stability"] for c in cards][3:5]


def test_cards_without_a_task_and_on_hosts_without_weights(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    found = circuit[:3].cards(tiny, TEXTS[:2], n=2, progress=False)
    assert list(found[0].numbers) == ["delta"] and not len(found[0].histogram())
    with pytest.raises(ValueError, match=r"^cards: expected texts"):
        circuit.cards(tiny, [])


def test_the_bundled_texts_are_many_short_and_different() -> None:
    texts = default_texts()
    assert len(texts) >= 200 and len(set(texts)) == len(texts)
    assert all(0 < len(text) < 120 and text == text.strip() for text in texts)
