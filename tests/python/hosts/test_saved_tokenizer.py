"""An export's tokenizer is the one that it was written with, without transformers' loading of models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cna
import pytest
import transformers
from conftest import CHAT_TEMPLATE, PROMPTS, appending_tokenizer, make_hf, make_tokenizer
from processes import run_script

TEXTS = [*PROMPTS, " two  spaces\nand a line", "<bos>ordinary<eos>", "Zoë, 你好", ""]


def bytes_of_t5() -> Any:
    """Of a class of its own, which is not read from tokenizer.json."""
    return transformers.ByT5Tokenizer()


def merges_of_gpt2() -> Any:
    plain = make_tokenizer(chat=False).get_vocab()
    return transformers.GPT2Tokenizer(
        vocab={**plain, "th": 259, "the": 260}, merges=[("t", "h"), ("th", "e")]
    )


@pytest.mark.parametrize(
    "make",
    [make_tokenizer, appending_tokenizer, merges_of_gpt2, bytes_of_t5],
    ids=lambda f: f.__name__,
)
def test_a_tokenizer_comes_back_as_it_was_exported(make: Any, tmp_path: Path) -> None:
    tokenizer = make()
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    cna.export(make_hf("llama"), tokenizer, tmp_path / "model")
    back = cna.load(tmp_path / "model").tokenizer
    assert type(back) is type(tokenizer)
    assert back.get_vocab() == tokenizer.get_vocab()
    assert back.special_tokens_map == tokenizer.special_tokens_map
    talk = [{"role": "user", "content": "Hi"}]
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert back(text)["input_ids"] == ids
        assert back.decode(ids) == tokenizer.decode(ids)
    for prompt in (True, False):
        written = [
            t.apply_chat_template(talk, tokenize=False, add_generation_prompt=prompt)
            for t in (tokenizer, back)
        ]
        assert written[0] == written[1]


def test_opening_an_export_imports_nothing_to_load_models_with(exports: Any) -> None:
    folder = exports("llama")
    done = run_script(
        "import sys, cna\n"
        f"model = cna.load({str(folder)!r})\n"
        "assert model.tokenize(['Hi'])\n"
        "print(sorted({'accelerate', 'peft', 'transformers.modeling_utils'} & set(sys.modules)))\n"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
def test_a_missing_or_damaged_tokenizer_is_named(exports: Any, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exports("llama"), folder)
    whole = (folder / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"[]", b"\xff\xfe"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(
            RuntimeError, match=r"load: expected the tokenizer that was exported to .*again$"
        ):
            cna.load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"load: .*{name} in .*found nothing; export"):
        cna.load(folder)


@pytest.mark.parametrize("error", [ImportError, MemoryError])
def test_what_is_missing_beside_the_export_is_not_the_exports_damage(
    exports: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any, **__: Any) -> Any:
        raise error("this tokenizer wants a package")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "from_pretrained", lacking)
    with pytest.raises(error, match="wants a package"):
        cna.load(exports("llama"))
