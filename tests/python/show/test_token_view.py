"""The view of a text: its numbers against plain hooks, its page and its picture."""

from __future__ import annotations

import re
from pathlib import Path

import cna
import numpy as np
import pytest
from conftest import PROMPTS, make_hf
from every_token import plain


def test_contributions_are_those_of_plain_hooks_and_add_up(
    tiny: cna.Model, circuit: cna.Circuit
) -> None:
    view = circuit.view(tiny, PROMPTS[1], max_new_tokens=5)
    ids = tiny.tokenize([PROMPTS[1]])[0]
    answer = tiny.generate([ids], 5, return_tokens=True, progress=False)[0]
    (seen,) = plain(make_hf("llama"), circuit, [ids + answer])
    delta = np.array([n.delta for n in circuit])
    expected = seen @ delta / (delta**2).sum()
    np.testing.assert_allclose(view.total, expected, rtol=1e-4, atol=1e-5)
    assert set(view.layers) == {n.layer for n in circuit}
    frame = view.to_frame()
    assert frame["part"].tolist() == ["prompt"] * len(ids) + ["answer"] * len(answer)
    np.testing.assert_allclose(frame.filter(like="layer_").sum(axis=1), frame["total"], atol=1e-9)
    assert "".join(frame["token"][: len(ids)]) == tiny.tokenizer.decode(ids)


def test_one_is_the_mean_difference_of_the_two_sets(tiny: cna.Model, circuit: cna.Circuit) -> None:
    def last(prompts: list[str]) -> list[float]:
        return [circuit.view(tiny, p, max_new_tokens=0).total[-1] for p in prompts]

    assert np.mean(last(PROMPTS[:4])) - np.mean(last(PROMPTS[4:])) == pytest.approx(1, rel=1e-3)


def test_messages_and_steering_are_taken(tiny: cna.Model, circuit: cna.Circuit) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    assert circuit.view(tiny, talk, max_new_tokens=3).tokens == (
        circuit.view(tiny, "Hi", max_new_tokens=3).tokens
    )
    with tiny.steer(circuit, 0.0):
        assert not circuit.view(tiny, "Hi").total.any()


def test_the_page_needs_no_script_and_no_colour(
    tiny: cna.Model, circuit: cna.Circuit, tmp_path: Path
) -> None:
    view = circuit.view(tiny, "a <b> & $x$\n\ttab", max_new_tokens=4)
    html = view._repr_html_()
    assert "<script" not in html and "http" not in html and "&lt;" in html
    cells = re.findall(r"<span title='([+-][\d.]+): ", html)
    assert len(cells) == len(view.tokens)
    assert [float(c) for c in cells] == pytest.approx(view.total, abs=0.005)
    assert html.count("<svg") == 1 + len(view.layers) and "⏎" in html and "⇥" in html
    for name in ("v.png", "v.svg", "v.html"):
        assert view.save(tmp_path / name).stat().st_size > 1000
    with pytest.raises(ValueError, match=r"^view.save: expected a file ending in"):
        view.save(tmp_path / "v.txt")


def test_a_circuit_without_deltas_is_refused(tiny: cna.Model) -> None:
    with pytest.raises(ValueError, match=r"^view: expected a circuit with deltas"):
        cna.Circuit((4, 64), [cna.Neuron(0, 1)]).view(tiny, "Hi")
