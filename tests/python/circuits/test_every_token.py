"""Activations at every token against plain hooks, on every host; gates and watches over them."""

from __future__ import annotations

from typing import Any

import cna
import numpy as np
import pytest
from conftest import PROMPTS, make_hf, make_tokenizer, random_ids
from every_token import plain
from mixtures import mixture

IDS = random_ids([9, 3, 14, 6, 1], seed=2)


@pytest.mark.parametrize("format", ["torchscript", "aoti", "live"])
def test_every_token_is_that_of_plain_hooks(
    format: str, exports: Any, circuit: cna.Circuit
) -> None:
    hf = make_hf("llama")
    live = format == "live"
    model = cna.live(hf, None) if live else cna.load(exports("llama", format=format))
    got = cna.record(model, IDS, positions="all", neurons=circuit, batch_size=2, progress=False)
    for rows, expected in zip(got, plain(hf, circuit, IDS), strict=True):
        assert rows.shape == expected.shape
        np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    last = cna.record(model, IDS, neurons=circuit, progress=False)
    whole = model.record(IDS, progress=False)
    for j, neuron in enumerate(circuit):
        expected = whole[:, neuron.layer, neuron.index]
        np.testing.assert_allclose(last[:, j], expected, rtol=1e-4, atol=1e-6)


def test_steering_is_seen_at_every_token(tiny: cna.Model, circuit: cna.Circuit) -> None:
    with tiny.steer(circuit, 0.0):
        got = cna.record(tiny, IDS, positions="all", neurons=circuit, progress=False)
    assert all((rows == 0).all() for rows in got)


def test_experts_that_do_not_run_are_0_at_every_token() -> None:
    hf = mixture("qwen2_moe")
    model = cna.live(hf, None)
    circuit = cna.discover(model, IDS[:2], IDS[2:4], k=40, universal=None, progress=False)
    got = cna.record(model, IDS, positions="all", neurons=circuit, progress=False)
    for prompt, rows in zip(IDS, got, strict=True):
        for end in range(1, len(prompt) + 1):  # the last token of every beginning
            alone = model.record([prompt[:end]], progress=False)[0]
            expected = [alone[n.layer, n.index] for n in circuit]
            np.testing.assert_allclose(rows[end - 1], expected, rtol=1e-4, atol=1e-5)


def test_a_gate_scores_every_token_as_a_prompt_that_ends_there(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    gate = cna.fit_gate(tiny, circuit, PROMPTS[:4], PROMPTS[4:], progress=False)
    (scores,) = gate.token_scores(tiny.core, [IDS[0]])
    alone = gate.scores(tiny.core, [IDS[0][:end] for end in range(1, len(IDS[0]) + 1)])
    assert scores == pytest.approx(alone, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("live", [False, True])
def test_a_watch_scores_what_each_token_is_predicted_from(
    live: bool, tiny: cna.Model, circuit: cna.Circuit
) -> None:
    model = cna.live(make_hf("llama"), make_tokenizer()) if live else tiny
    gate = cna.fit_gate(model, circuit, PROMPTS[:4], PROMPTS[4:], progress=False)
    heard: list[tuple[int, int, float]] = []
    watch = cna.Watch(gate, lambda *what: heard.append(what))
    answers = model.generate(IDS, 6, return_tokens=True, watch=watch, progress=False)
    for prompt, (ids, answer) in enumerate(zip(IDS, answers, strict=True)):
        ends = [ids + answer[:t] for t in range(len(answer))]
        expected = gate.scores(model.core, ends) if ends else []
        assert watch.scores[prompt] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert watch.fired[prompt] == any(x > gate.threshold for x in watch.scores[prompt])
    written = {(p, t) for p, answer in enumerate(answers) for t in range(len(answer))}
    assert {(p, t) for p, t, _ in heard} >= written
    assert model.generate(IDS, 6, return_tokens=True, progress=False) == answers

    def stop(*_: Any) -> None:
        raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough"):
        model.generate(IDS, 6, watch=cna.Watch(gate, stop), progress=False)
    assert model.generate(IDS, 6, return_tokens=True, progress=False) == answers


def test_bad_requests_are_one_clear_line(tiny: cna.Model, circuit: cna.Circuit) -> None:
    for options, match in (
        ({"positions": "all"}, r"expected neurons= with positions='all'"),
        ({"positions": "first"}, r"expected positions 'last' or 'all'"),
        ({"neurons": circuit, "site": "residual"}, r"expected site 'neuron' with neurons="),
        ({"neurons": circuit[:0]}, r"expected a circuit with neurons, got an empty one"),
        ({"neurons": cna.Circuit((2, 8), [cna.Neuron(0, 1)])}, r"belongs to another model"),
    ):
        with pytest.raises(ValueError, match="^record: .*" + match):
            cna.record(tiny, IDS, progress=False, **options)


# --- circuits as data -------------------------------------------------------------------------------


def test_parts_of_a_circuit_keep_what_it_says_of_itself(circuit: cna.Circuit) -> None:
    neurons = circuit.neurons
    assert circuit[0] == neurons[0] and circuit[-1] == neurons[-1]
    assert circuit[2:7:2].neurons == neurons[2:7:2] and circuit[:100].neurons == neurons
    assert circuit.in_layers(1).neurons == [n for n in neurons if n.layer == 1]
    assert circuit.in_layers([-1, 0]).neurons == [n for n in neurons if n.layer in (0, 3)]
    assert circuit.in_layers(range(2)).neurons == [n for n in neurons if n.layer < 2]
    assert circuit.positive.neurons == [n for n in neurons if n.delta > 0]
    assert circuit.negative.neurons == [n for n in neurons if n.delta < 0]
    strong = circuit.where(lambda n: abs(n.delta) > abs(neurons[5].delta))
    assert strong.neurons == neurons[:5]
    part = circuit[:6].positive
    assert part.provenance["selection"] == ["slice(None, 6, None)", "positive"]
    rest = {k: v for k, v in part.provenance.items() if k != "selection"}
    assert rest == circuit.provenance and part.widths == circuit.widths
    assert part == cna.Circuit.from_json(part.to_json())
    with pytest.raises(IndexError, match="expected a rank below 12, got 12"):
        circuit[12]
    with pytest.raises(IndexError, match="expected layers below 4, got 4"):
        circuit.in_layers(4)
    with pytest.raises(ZeroDivisionError):
        circuit.where(lambda _: 1 / 0)


def test_a_circuit_is_a_table(circuit: cna.Circuit) -> None:
    frame = circuit.to_frame()
    assert list(frame) == ["rank", "layer", "index", "delta"]
    assert [tuple(row[1:]) for row in frame.itertuples(index=False)] == [
        (n.layer, n.index, n.delta) for n in circuit
    ]
    mixed = cna.Circuit((1, 20), [cna.Neuron(0, 7, 2.0), cna.Neuron(0, 17, 1.0)], experts=[(3, 5)])
    assert mixed.to_frame()["expert"].tolist()[0] == 1
    assert mixed.to_frame()["expert"].isna().tolist() == [False, True]
    assert mixed.to_frame()["in_expert"].tolist() == [2, 2]
