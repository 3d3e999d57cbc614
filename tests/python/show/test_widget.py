"""The notebook's slider: both answers are the model's own, and text stays text."""

from __future__ import annotations

import html
import re
import sys

import cna
import pytest

ipywidgets = pytest.importorskip("ipywidgets")


def answer_in(shown: str) -> str:
    """The answer of a panel."""
    (found,) = re.findall(r"<div [^>]*>(.*)</div>$", shown, flags=re.S)
    return html.unescape(found)


def test_the_answers_are_those_of_generate(tiny: cna.Model, circuit: cna.Circuit) -> None:
    box = circuit.widget(tiny, "", max_new_tokens=6)
    text, controls, answers = box.children
    slider, button = controls.children
    plain, steered = answers.children
    assert (slider.min, slider.max, slider.value) == (-1, 2, 0) and not slider.continuous_update
    button.click()
    assert plain.value == steered.value == ""  # nothing is asked
    text.value = "Say <b>hello</b> & go"
    button.click()
    (expected,) = tiny.generate([text.value], 6)
    assert answer_in(plain.value) == str(expected)
    for m in (0.0, -1.0, 2.0):
        slider.value = m  # as a hand lets it go
        with tiny.steer(circuit, m):
            (expected,) = tiny.generate([text.value], 6)
        assert answer_in(steered.value) == expected and f"m = {m:g}" in steered.value
    assert "<b>hello" not in answer_in(plain.value) or "&lt;" in plain.value


def test_bad_ends_and_a_missing_package_are_named(
    tiny: cna.Model, circuit: cna.Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^widget: expected low below high, got 2 and 1; swap"):
        circuit.widget(tiny, low=2, high=1)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"^widget: expected ipywidgets, found none; pip install"):
        circuit.widget(tiny)
