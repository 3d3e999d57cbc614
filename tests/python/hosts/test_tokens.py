"""Prompts in any form become the ids that they mean, or one clear line says why not."""

from __future__ import annotations

import re
from typing import Any

import cna
import numpy as np
import pytest
import torch
from cna.cli import main
from conftest import PROMPTS, appending_tokenizer, make_tokenizer

TALK = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def tokenizer(tiny: cna.Model) -> Any:
    return tiny.tokenizer


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_a_tokenizers_output_is_read_with_its_mask(
    tiny: cna.Model, side: str, kind: str | None
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    plain = [list(tokenizer(p)["input_ids"]) for p in PROMPTS]
    encoding = tokenizer(PROMPTS, padding=kind is not None, return_tensors=kind)
    assert tiny.tokenize(encoding) == tiny.tokenize(dict(encoding)) == plain
    assert torch.equal(tiny.logits(encoding), tiny.logits(plain))


def test_a_padded_tensor_is_refused_and_an_even_one_is_not(tiny: cna.Model) -> None:
    padded = tiny.tokenizer(PROMPTS, padding=True, return_tensors="pt")["input_ids"]
    for ids in (padded, padded.numpy()):
        with pytest.raises(ValueError, match="begin or end with the padding token 258; pass the"):
            tiny.tokenize(ids)
    even = [[5, 6, 7], [8, 9, 10]]
    for ids in (
        torch.tensor(even),
        np.array(even, dtype=np.int32),
        [torch.tensor(r) for r in even],
    ):
        assert tiny.tokenize(ids) == even


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompts": ["a"]},
        torch.tensor([5, 6, 7]),
        torch.tensor([[0.5, 1.0]]),
        np.zeros((1, 2, 2), dtype=int),
        [[1.5, 2.0]],
        [["1", "2"]],
        [1, 2, 3],
        TALK,
        [TALK, "Hi"],
        [TALK, [1, 2]],
        ["Hi", [1, 2]],
    ],
)
def test_other_forms_are_refused(tiny: cna.Model, prompts: Any) -> None:
    with pytest.raises(ValueError, match=r"^tokenize: expected .*[;] (pass|use|put) "):
        tiny.tokenize(prompts)


def test_a_token_behind_raw_text_is_left_off(tiny: cna.Model) -> None:
    model = cna.Model(tiny.core, appending_tokenizer())
    assert model.tokenize(["ab"], chat=False) == [[256, ord("a") - 33, ord("b") - 33]]
    # Only what the tokenizer appends, not an end token of the text's own.
    assert model.tokenize(["a<eos>"], chat=False) == [[256, ord("a") - 33, 257]]


def test_conversations_and_a_system_message_reach_the_template(tiny: cna.Model) -> None:
    talk = [*TALK, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}]
    text = tiny.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    expected = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny.tokenize([talk]) == [expected]
    polite = cna.Model(tiny.core, tiny.tokenizer, system="Be polite.")
    own = [{"role": "system", "content": "Be polite."}, *TALK]
    assert polite.tokenize(["Hi"]) == tiny.tokenize([own])
    assert polite.tokenize(["Hi"]) != tiny.tokenize(["Hi"])
    with pytest.raises(ValueError, match="chat template for lists of messages"):
        tiny.tokenize([TALK], chat=False)


def test_template_arguments_reach_the_template_and_the_provenance(tiny: cna.Model) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ date or 'today' }}{{ messages[-1].content }}"
    dated = cna.Model(tiny.core, tokenizer, template_kwargs={"date": "1 May"})
    assert tokenizer.decode(dated.tokenize(["x"])[0]) == "1 Mayx"
    plain = cna.Model(tiny.core, tokenizer)
    hashes = {
        cna.discover(m, PROMPTS[:2], PROMPTS[2:4], k=3, universal=None).provenance[
            "chat_template_sha256"
        ]
        for m in (dated, plain)
    }
    assert len(hashes) == 2


def test_a_template_that_refuses_is_one_line_and_exit_code_2(
    exports: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = shutil.copytree(exports("llama"), tmp_path / "m")
    refusing = "{{ raise_exception('a system message is wanted') }}"
    (folder / "chat_template.jinja").write_text(refusing)
    model = cna.load(folder)
    with pytest.raises(
        ValueError, match=r"tokenize: .*TemplateError: a system message is wanted; "
    ):
        model.generate(["Hi"])
    assert main(["generate", "--model", str(folder), "Hi"]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"cna generate: tokenize: .*a system message is wanted; .*\n", err)
