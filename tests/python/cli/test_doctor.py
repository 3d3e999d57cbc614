"""The doctor passes sound models, and each of its checks fails on a model that is broken that way."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import transformers
from cna import _core
from cna.cli import main
from cna.doctor import Check, check, main_doctor, relative_difference
from conftest import (
    CHAT_TEMPLATE,
    FAMILIES,
    appending_tokenizer,
    make_hf,
    make_tokenizer,
    needs_bf16,
)

NAMES = [
    "archive is as exported",
    "one BOS",
    "prompts end with text",
    "chat template",
    "padding sides",
    "EOS",
    "layouts that agree",
    "batch equals single",
    "shared prefix equals none",
    "exported equals Hugging Face",
    "faster form equals the graph",
    "no neurons change nothing",
    "multiplier 1 is the model",
]


def failures(checks: list[Check]) -> set[str]:
    for one in checks:
        assert one.passed or one.fix, one
        assert "\n" not in one.detail + one.fix
    return {c.name for c in checks if not c.passed}


def broken_mlp(wrong: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A copy of the tiny model whose last MLP changes what it is given."""
    hf = copy.deepcopy(make_hf("llama"))

    class Wrong(type(hf.model.layers[-1].mlp)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(wrong(x))

    hf.model.layers[-1].mlp.__class__ = Wrong
    return hf


def mixes_prompts(x: torch.Tensor) -> torch.Tensor:
    """Nothing for a prompt alone; beside others each gets something of theirs."""
    return x + 3 * (x[:, -1:].mean(0, keepdim=True) - x[:, -1:])


@pytest.fixture
def exported(tmp_path: Path, exports: Any) -> Path:
    return shutil.copytree(exports("llama"), tmp_path / "m")


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_sound_model_passes_every_check(tiny: cna.Model, tiny_hf: Any) -> None:
    checks = check(tiny, tiny_hf)
    assert failures(checks) == set()
    assert [c.name for c in checks] == NAMES
    assert not any(c.skipped for c in checks)


def test_checks_do_not_change_the_tokenizer(tiny: cna.Model) -> None:
    before = tiny.tokenizer.padding_side
    check(tiny)
    assert tiny.tokenizer.padding_side == before


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mistral"])
def test_other_families_pass(exports: Any, family: str) -> None:
    assert failures(check(cna.load(exports(family)), make_hf(family))) == set()


def test_a_bfloat16_model_passes(exports: Any) -> None:
    model = cna.load(exports("llama", torch.bfloat16))
    assert failures(check(model, make_hf("llama", torch.bfloat16))) == set()


def test_the_command_prints_lines_and_returns_0(
    exported: Path, tiny_hf: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_doctor(str(exported), hf_model=tiny_hf) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES) + 1 and all(line.startswith("pass") for line in lines[:-1])
    assert lines[-1] == "13 of 13 hold"


def test_the_command_names_the_fix_and_returns_1(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(exported, eos_token_ids=[])
    assert main_doctor(str(exported)) == 1
    out = capsys.readouterr().out
    assert "FAIL  EOS: none: answers never end\n      -> set eos_token_id" in out
    assert out.splitlines()[-1].endswith("1 fail")


def test_without_a_hugging_face_model_that_check_is_skipped(exported: Path) -> None:
    skipped = [c for c in check(str(exported)) if c.skipped]
    assert [c.name for c in skipped] == ["exported equals Hugging Face"]


def test_a_doubled_bos_fails(tiny: cna.Model, tiny_hf: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    model = cna.Model(tiny.core, tokenizer, None)
    assert failures(check(model, tiny_hf)) == {"one BOS"}


def test_a_template_of_the_day_fails(tiny: cna.Model, tiny_hf: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "You are", "Today is {{ strftime_now('%d %b %Y') }}. You are"
    )
    model = cna.Model(tiny.core, tokenizer, None)
    assert failures(check(model, tiny_hf)) == {"chat template"}


def test_the_commands_template_arguments_reach_the_template(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dated = CHAT_TEMPLATE.replace("You are", "{{ day or strftime_now('%d %b %Y') }}: you are")
    (exported / "chat_template.jinja").write_text(dated)
    digest = hashlib.sha256(dated.encode()).hexdigest()
    edit_manifest(exported, chat_template_sha256=digest)
    assert main(["doctor", str(exported)]) == 1
    assert main(["doctor", str(exported), "--template-kwargs", '{"day": "1 May"}']) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", str(exported), "--template-kwargs", "1 May"])
    assert "expected a JSON object, got '1 May'" in capsys.readouterr().err


def test_an_older_export_that_is_wrong_beyond_the_window_fails(tmp_path: Path) -> None:
    """All prompts of the other checks are shorter than 200 tokens."""
    settings = FAMILIES["mistral"][1] | {"sliding_window": 200, "max_position_embeddings": 512}
    torch.manual_seed(0)
    hf = transformers.MistralForCausalLM(transformers.MistralConfig(**settings)).eval()
    for parameter in hf.parameters():
        parameter.data.mul_(3.0 if parameter.dim() > 1 else 1.0)
    folder = cna.export(hf, make_tokenizer(), tmp_path / "m")
    assert failures(check(cna.load(folder), hf)) == set()
    hf.config.sliding_window = None
    assert failures(check(cna.load(folder), hf)) == set()  # nothing to exceed
    hf.config.sliding_window = 190
    assert failures(check(cna.load(folder), hf)) == {"exported equals Hugging Face"}


def test_a_template_without_the_message_fails(tiny: cna.Model) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}Hello {{ messages[0].content | upper }}"
    assert "chat template" in failures(check(cna.Model(tiny.core, tokenizer, None)))


def test_a_missing_template_fails(tiny: cna.Model) -> None:
    model = cna.Model(tiny.core, make_tokenizer(chat=False), None)
    assert failures(check(model)) == {"chat template"}


def test_another_template_than_at_export_fails(exported: Path, tiny_hf: Any) -> None:
    edit_manifest(exported, chat_template_sha256="0" * 64)
    assert failures(check(cna.load(exported), tiny_hf)) == {"chat template"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_loses_tokens_fails(tiny: cna.Model, tiny_hf: Any, side: str) -> None:
    tokenizer = make_tokenizer()
    pad = tokenizer.pad

    def wrong(*args: Any, **kwargs: Any) -> Any:
        out = pad(*args, **kwargs)
        if tokenizer.padding_side == side:
            out["attention_mask"].fill_(1)
        return out

    tokenizer.pad = wrong
    model = cna.Model(tiny.core, tokenizer, None)
    assert failures(check(model, tiny_hf)) == {"padding sides"}


@pytest.mark.parametrize("eos", [[], [256], [10**6]])
def test_a_missing_or_wrong_eos_fails(exported: Path, tiny_hf: Any, eos: list[int]) -> None:
    edit_manifest(exported, eos_token_ids=eos)
    assert failures(check(cna.load(exported), tiny_hf)) == {"EOS"}


def test_a_layout_that_was_left_out_is_said(tmp_path: Path) -> None:
    """A model that mixes the prompts of a batch: none are batched, and all else holds."""
    hf = broken_mlp(mixes_prompts)
    folder = cna.export(hf, make_tokenizer(), tmp_path / "m")
    checks = check(cna.load(folder), hf)
    assert failures(checks) == set()
    assert "one prompt at a time" in {c.name: c.detail for c in checks}["layouts that agree"]


@pytest.mark.parametrize("name", ["batch equals single", "shared prefix equals none"])
def test_a_layout_that_is_used_and_wrong_fails(tmp_path: Path, name: str) -> None:
    """An export of a version that did not compare: its manifest says that all layouts are good."""
    hf = broken_mlp(mixes_prompts)
    folder = cna.export(hf, make_tokenizer(), tmp_path / "m")
    edit_manifest(folder, layouts=dict.fromkeys(("batch", "padding", "share_prefix", "room"), True))
    assert name in failures(check(cna.load(folder), hf))


def test_a_tokenizer_that_ends_raw_text_is_named(tiny: cna.Model, tiny_hf: Any) -> None:
    model = cna.Model(tiny.core, appending_tokenizer(), None)
    checks = check(model, tiny_hf)
    assert failures(checks) == set()
    assert "[257] behind raw text" in {c.name: c.detail for c in checks}["prompts end with text"]


def test_a_fixed_date_mends_a_template_of_the_day(tiny: cna.Model, tiny_hf: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "You are", "{{ date_string or strftime_now('%d %b %Y') }}: you are"
    )
    failed = check(cna.Model(tiny.core, tokenizer), tiny_hf)
    assert failures(failed) == {"chat template"}
    assert any("template_kwargs" in c.fix for c in failed)
    fixed = cna.Model(tiny.core, tokenizer, template_kwargs={"date_string": "26 Jul 2024"})
    assert failures(check(fixed, tiny_hf)) == set()


def test_other_weights_than_the_hugging_face_model_fail(tiny: cna.Model) -> None:
    other = make_hf("llama", seed=1)
    assert failures(check(tiny, other)) == {"exported equals Hugging Face"}


def test_a_model_of_chance_changes_without_neurons_and_at_multiplier_1(tmp_path: Path) -> None:
    hf = broken_mlp(lambda x: x + 1e-6 * torch.randn_like(x))
    folder = cna.export(hf, make_tokenizer(), tmp_path / "m")
    found = failures(check(cna.load(folder), hf))
    assert found == {"no neurons change nothing", "multiplier 1 is the model"}


def test_a_faster_form_with_other_numbers_fails(
    exported: Path, tiny_hf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = cna.load(cna.export(make_hf("llama", seed=1), make_tokenizer(), exported.parent / "o"))
    model = cna.load(exported)
    monkeypatch.setattr(_core.Model, "load", lambda *_, **__: other.core)
    assert failures(check(model, tiny_hf)) == {"faster form equals the graph"}


def test_products_in_bf16_have_the_limit_of_what_they_round(exported: Path) -> None:
    rounded = cna.load(exported)
    rounded.precision = "bf16"
    assert (
        "limit 0.05" in {c.name: c.detail for c in check(rounded)}["faster form equals the graph"]
    )


@needs_bf16
def test_a_model_in_bf16_is_healthy(exported: Path) -> None:
    assert failures(check(cna.load(exported, precision="bf16"))) == set()


def test_a_changed_archive_fails(exported: Path) -> None:
    edit_manifest(exported, sha256="0" * 64)
    assert failures(check(str(exported))) == {"archive is as exported"}


def test_a_changed_archive_is_not_opened(exported: Path) -> None:
    whole = (exported / "model.pt").read_bytes()
    (exported / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert [c.name for c in check(str(exported))] == ["archive is as exported"]
    assert main_doctor(str(exported)) == 1


def test_a_template_that_does_not_parse_fails(exported: Path) -> None:
    model = cna.load(exported)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}"
    failed = {c.name: c for c in check(model) if not c.passed}
    assert failed and all(c.detail and c.fix for c in failed.values())


def test_a_name_of_nothing_fails() -> None:
    assert failures(check("./no/such/model")) == {"model opens"}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_a_bare_archive_is_checked_with_token_ids(
    tmp_path: Path, tiny_hf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_hf

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, use_cache=False).logits

    with torch.no_grad():
        traced = torch.jit.trace(Bare().eval(), (torch.ones(1, 6, dtype=torch.long),))
    traced.save(str(tmp_path / "bare.pt"))
    checks = check(str(tmp_path / "bare.pt"))
    assert {"one BOS", "chat template", "padding sides"} <= {c.name for c in checks if c.skipped}
    assert failures(checks) == {"EOS"}  # such a file does not say
    some = cna.load(tmp_path / "bare.pt", pattern=r"layers\.[13]\.mlp\.down_proj$")
    opened, load = [], _core.Model.load
    monkeypatch.setattr(
        _core.Model, "load", lambda *how, **k: opened.append(how) or load(*how, **k)
    )
    assert failures(check(some)) == {"EOS"}
    assert [how[1] for how in opened] == [some.pattern]  # the graph is opened as the model was


def test_relative_difference_is_infinite_for_what_is_not_finite() -> None:
    a = torch.tensor([1.0, float("nan")])
    assert relative_difference(a, torch.ones(2)) == float("inf")
    assert relative_difference(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == 0.5


@pytest.mark.parametrize(
    ("summary", "other"),
    [
        ("Covarying neighborhood analysis", True),
        ("Find, prove and steer the few MLP neurons behind a behaviour", False),
    ],
)
def test_the_indexs_other_cna_is_said(
    summary: str,
    other: bool,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """A distribution `cna` beside this one writes into the same folder, unless it is this project's."""
    (tmp_path / "cna-0.2.dist-info").mkdir()
    (tmp_path / "cna-0.2.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: cna\nVersion: 0.2\nSummary: {summary}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main_doctor(str(exported)) == int(other)
    assert ("project cna 0.2 is installed too" in capsys.readouterr().out) is other
