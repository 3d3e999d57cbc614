"""A live model by name: loaded as an export is, and run as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.hosts import auto
from conftest import PROMPTS, hf_record, make_hf, make_tokenizer

OWN_CHOICE = auto.best_device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local Hugging Face folder in bfloat16."""
    path = tmp_path_factory.mktemp("hf") / "my-model"
    make_hf("llama", torch.bfloat16, layers=2).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def test_a_folder_is_the_module_that_transformers_loads(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = cna.live(folder, system="Be brief.")
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.dtype == torch.float32 and model.model_id == "my-model"
    ids = model.tokenize(PROMPTS[:3])
    assert b"Be brief." in bytes(model.tokenizer.decode(ids[0]), "utf-8")
    torch.testing.assert_close(
        model.record(PROMPTS[:3]), torch.tensor(hf_record(hf, ids)[:, :2]), rtol=1e-4, atol=1e-5
    )


def test_dtype_and_tokenizer_of_the_caller_win(folder: Path) -> None:
    bare = make_tokenizer(chat=False)
    model = cna.live(str(folder), bare, dtype="bfloat16", device="cpu", model_id="mine")
    assert model.dtype == torch.bfloat16 and model.tokenizer is bare and model.model_id == "mine"


def test_options_of_from_pretrained_reach_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cna.hosts import live_open

    seen: dict[str, Any] = {}

    def load_hf(name: str, dtype: torch.dtype, revision: str | None, **options: Any) -> Any:
        seen.update(options, name=name, dtype=dtype, revision=revision)
        return make_hf("llama", layers=2), make_tokenizer()

    monkeypatch.setattr(live_open, "load_hf", load_hf)
    settings = object()
    cna.live("org/name", revision="main", device_map="auto", quantization_config=settings)
    assert seen["name"] == "org/name" and seen["revision"] == "main"
    assert seen["device_map"] == "auto" and seen["quantization_config"] is settings
    assert seen["dtype"] == torch.float32


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"hf_model": "./nothing-here"}, FileNotFoundError),
        ({"dtype": "int3"}, ValueError),
        ({"device": "gpu7"}, ValueError),
        ({"device": "cpu", "device_map": "auto"}, ValueError),
        ({"revision": "main"}, ValueError),
        ({"template_kwargs": ["date"]}, ValueError),
        ({"hf_model": "org/no-such-model"}, RuntimeError),
    ],
)
def test_a_wrong_name_or_value_is_one_line(
    folder: Path, asked: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^live: expected [^\n]*, (got|found)[^\n]*; "):
        cna.live(**{"hf_model": folder} | asked)


def test_an_empty_folder_and_an_export_are_refused(exports: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="without"):
        cna.live(tmp_path)
    with pytest.raises(ValueError, match="got the export"):
        cna.live(exports("llama"))


@pytest.mark.parametrize("asked", [{"dtype": "float32"}, {"device": "cpu"}, {"device_map": "auto"}])
def test_a_module_takes_no_arguments_of_a_name(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^live: expected .*= with a name only"):
        cna.live(make_hf("llama", layers=2), make_tokenizer(), **asked)


def test_auto_is_float32_on_a_cpu_and_the_checkpoints_own_on_a_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auto, "best_device", OWN_CHOICE)  # of the machine, not of the other tests
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert auto.choose_device("load", "auto") == auto.choose_device("load", None) == "cpu"
    assert auto.choose_dtype("auto", "cpu", str(folder)) == torch.float32
    auto.announce("m", "cpu", torch.float32)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert auto.choose_device("load", "auto") == "cuda"
    assert auto.choose_device("load", "cuda:1") == "cuda:1"
    assert auto.choose_dtype("auto", "cuda", str(folder)) == torch.bfloat16
    assert auto.choose_dtype("auto", "cuda", "smollm2") == torch.float32
    assert auto.choose_dtype("float16", "cuda", str(folder)) == torch.float16
    auto.announce("m", "cuda", torch.bfloat16)
    assert capsys.readouterr().err == "cna: auto is cuda in bfloat16 for m\n"


def test_load_takes_auto(folder: Path, exports: Any, tmp_path: Path) -> None:
    model = cna.load(folder, device="auto", dtype="auto", cache_dir=tmp_path)
    assert model.dtype == torch.float32 or model.device.type != "cpu"
    assert cna.load(exports("llama"), device="auto").n_layers == 4
    with pytest.raises(ValueError, match=r"^load: expected a device such as 'cpu'"):
        cna.load(exports("llama"), device="gpu7")
