"""Prompts that lose their difference, and prompts as token ids."""

from __future__ import annotations

import copy
import warnings

import cna
import pytest
from cna.circuits.form import chat_of_ids
from conftest import CHAT_TEMPLATE, PROMPTS, make_hf, make_tokenizer

A, B = PROMPTS[:4], PROMPTS[4:]


def test_two_sets_that_the_model_sees_alike_are_refused(tiny: cna.Model) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ m.content }}", "")  # drops the text
    deaf = cna.live(copy.deepcopy(make_hf("llama")), tokenizer)
    for model, positive, negative in ((deaf, A, B), (tiny, A, A[::-1]), (tiny, A, A + A)):
        with pytest.raises(
            ValueError, match=r"^discover: expected two sets of prompts that differ"
        ):
            cna.discover(model, positive, negative, universal=None)
        with pytest.raises(ValueError, match=r"^caa: expected two sets of prompts that differ"):
            cna.caa(model, positive, negative)


def test_a_difference_at_rounding_is_said(tiny: cna.Model) -> None:
    """The prompts differ beyond what the model looks at: it copies one embedding to both tokens."""
    hf = copy.deepcopy(make_hf("llama"))
    weight = hf.get_input_embeddings().weight.data
    model = cna.live(hf, make_tokenizer())
    a, b = (model.tokenize([letter], chat=False)[0][0] for letter in "ab")
    weight[b] = weight[a] * (1 + 1e-7)
    with pytest.warns(UserWarning, match="differ by rounding only"):
        cna.discover(model, ["xa", "ya"], ["xb", "yb"], universal=None)
    with pytest.warns(UserWarning, match="differ by rounding only") as caught:
        cna.analysis.layers_by_ranking(model, ["xa", "ya"], ["xb", "yb"], universal=None)
    assert caught[0].filename == __file__  # the user's own line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cna.discover(model, ["xa", "ya"], ["xc", "yc"], universal=None)


def test_ids_say_nothing_of_a_template_but_are_known_by_its_form(tiny: cna.Model) -> None:
    for chat in (True, False):
        ids = tiny.tokenize(A, chat), tiny.tokenize(B, chat)
        assert chat_of_ids(tiny, *ids) is chat
        found = cna.discover(tiny, *ids, k=5)
        text = cna.discover(tiny, A, B, k=5, chat=chat)
        assert found.neurons == text.neurons
        assert found.provenance["chat_template_sha256"] is None
        assert (text.provenance["chat_template_sha256"] is None) is (not chat)
        # The universal neurons are those of prompts of the same form.
        assert found.provenance["universal_filter"] == text.provenance["universal_filter"]
