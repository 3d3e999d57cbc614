"""What the arguments of discovery mean, wherever they are given: size, filter, threshold, hash."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import cna
import pytest
from cna._core import universal_threshold
from cna.circuits.provenance import prompt_hash
from cna.circuits.size import circuit_size
from cna.circuits.universal import universal_filter
from conftest import PROMPTS


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.1, 1.0])
def test_a_fraction_is_the_size_that_discover_takes(tiny: cna.Model, fraction: float) -> None:
    found = cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], fraction=fraction, universal=None)
    assert circuit_size((tiny.n_layers, tiny.width), fraction) == len(found)


@pytest.mark.parametrize("k", [0, 99, True, 1.5, math.nan, "4"])
def test_a_size_that_cannot_be_is_refused(k: Any) -> None:
    assert circuit_size((4, 25), k=98, excluded=2) == 98
    with pytest.raises(ValueError, match=r"^f: expected k between 1 and 98 neurons, got"):
        circuit_size((4, 25), k=k, excluded=2, function="f")
    with pytest.raises(ValueError, match="fraction above 0"):
        circuit_size((4, 25), fraction=math.nan)


def test_the_threshold_is_the_exact_ceiling() -> None:
    for prompts in (*range(10, 200), 1000):
        for percent in range(1, 101):
            exact = math.ceil(Fraction(percent, 100) * prompts)
            assert universal_threshold(prompts, percent / 100) == exact
    with pytest.raises(ValueError, match="10 or more prompts, got 9"):
        universal_threshold(9, 0.8)
    for share in (0.0, 1.01, math.nan):
        with pytest.raises(ValueError, match="share above 0 and up to 1"):
            universal_threshold(10, share)


def test_only_the_default_filter_is_counted() -> None:
    counted = cna.UniversalNeurons(((0, 1),), 10, 0.8, 0.001, "x")
    given = cna.UniversalNeurons(((2, 3),), 10, 0.8, 0.001, "x")
    assert universal_filter("default", lambda: counted) is counted

    def never() -> None:
        raise AssertionError("counted without need")

    assert universal_filter(None, never) is None
    assert universal_filter(given, never) is given
    with pytest.raises(ValueError, match=r"^f: expected universal='default', None or .* 'some'"):
        universal_filter("some", never, "f")


def test_the_hash_of_prompts_knows_their_sets_and_order() -> None:
    one, two = [[1, 2], [3]], [[4]]
    values = [prompt_hash(one, two), prompt_hash(two, one), prompt_hash([*one, *two])]
    values += [prompt_hash(one), prompt_hash([[1, 2, 3]])]
    assert len(set(values)) == len(values)
    assert all(len(v) == 16 and int(v, 16) >= 0 for v in values)
    assert prompt_hash(tuple(one), tuple(two)) == values[0]
