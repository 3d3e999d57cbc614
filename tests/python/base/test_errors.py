"""Bad input gives one line that says what was expected, what came, and what to do."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from cna.base.files import new_folder
from cna.loading import load_hf
from conftest import PROMPTS, make_hf, make_tokenizer

ONE_LINE = re.compile(r"^[\w.:]+: expected [^\n]+; [^\n]+$")


def fails(kind: type[Exception], match: str, call: Any) -> str:
    with pytest.raises(kind, match=match) as caught:
        call()
    text = str(caught.value)
    assert ONE_LINE.match(text), text
    return text


@pytest.fixture
def circuit(tiny: cna.Model) -> cna.Circuit:
    return cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=6, universal=None)


def test_a_missing_model_file() -> None:
    fails(FileNotFoundError, "found nothing", lambda: cna.load("./no/such/model.pt"))
    fails(FileNotFoundError, "found nothing", lambda: cna.load("/no/such/folder"))


def test_a_truncated_model_file(tmp_path: Path, exports: Any) -> None:
    folder = shutil.copytree(exports("llama"), tmp_path / "m")
    whole = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(whole[: len(whole) // 2])
    fails(RuntimeError, "changed or truncated", lambda: cna.load(folder))
    fails(RuntimeError, "expected a TorchScript archive", lambda: cna.load(folder, verify=False))
    fails(RuntimeError, "expected a TorchScript", lambda: cna.load(folder / "model.pt"))


def test_a_changed_model_file(tmp_path: Path, exports: Any) -> None:
    folder = shutil.copytree(exports("llama"), tmp_path / "m")
    with (folder / "model.pt").open("ab") as file:
        file.write(b"x")
    fails(RuntimeError, "SHA-256", lambda: cna.load(folder))


def test_an_empty_or_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    fails(RuntimeError, "TorchScript archive", lambda: cna.load(tmp_path / "empty.pt"))
    (tmp_path / "text.pt").write_text("not a model")
    fails(RuntimeError, "TorchScript archive", lambda: cna.load(tmp_path / "text.pt"))
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    fails(RuntimeError, "TorchScript archive", lambda: cna.load(tmp_path / "weights.pt"))
    (tmp_path / "folder").mkdir()
    fails(FileNotFoundError, "manifest.json", lambda: cna.load(tmp_path / "folder"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "cna.model"}', '{"format": 3}'])
def test_a_broken_manifest(tmp_path: Path, exports: Any, text: str) -> None:
    folder = shutil.copytree(exports("llama"), tmp_path / "m")
    (folder / "manifest.json").write_text(text)
    fails(ValueError, "manifest", lambda: cna.load(folder))


def test_no_tap_site_lists_the_closest_names(exports: Any) -> None:
    text = fails(
        ValueError,
        "closest|linear modules are",
        lambda: cna.load(exports("llama"), pattern="dwn_proj"),
    )
    assert "layers.*.mlp.down_proj" in text
    fails(
        ValueError, "regular expression", lambda: cna.load(exports("llama"), pattern="down_proj(")
    )


def test_a_circuit_of_another_shape(tiny: cna.Model) -> None:
    other = cna.Circuit((2, 8), [cna.Neuron(0, 1, 1.0)])

    def steer() -> None:
        with tiny.steer(other, 0.0):
            pass

    fails(ValueError, "4 layers x 64", steer)


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([], "empty list"),
        ("one string", "list of prompts"),
        (["fine", ""], "prompt 1"),
        (["fine", "  \n"], "prompt 1"),
        (["fine", [1, 2]], "all strings"),
        ([3.5], "all strings"),
        ([[1, 2], []], "an empty list as prompt 1"),
        ([[1, 99999]], "token ids below"),
        ([[1, -4]], "token ids below"),
        (["x" * 300], "at most 256 tokens"),
    ],
)
def test_bad_prompts(tiny: cna.Model, prompts: Any, match: str) -> None:
    for call in (
        lambda: cna.record(tiny, prompts),
        lambda: tiny.generate(prompts, max_new_tokens=2),
        lambda: tiny.logits(prompts),
        lambda: cna.discover(tiny, prompts, PROMPTS, universal=None),
    ):
        fails(ValueError, match, call)


def test_an_answer_beyond_the_models_length(tiny: cna.Model) -> None:
    fails(ValueError, "new ones", lambda: tiny.generate(PROMPTS, max_new_tokens=250))


def test_bad_generation_options(tiny: cna.Model) -> None:
    for options, match in [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"batch_size": 0}, "batch"),
    ]:
        fails(ValueError, match, lambda o=options: tiny.generate(PROMPTS, **o))


def test_infinite_activations_name_prompt_and_layer(tmp_path: Path) -> None:
    import copy

    hf = copy.deepcopy(make_hf("llama"))
    hf.model.layers[2].mlp.up_proj.weight.data[:] = 1e38
    hf.model.layers[2].mlp.gate_proj.weight.data[:] = 1e38
    try:
        folder = cna.export(hf, make_tokenizer(), tmp_path / "m")
    except RuntimeError:  # its own check sees the NaN first
        pytest.fail("export should not judge weights")
    model = cna.load(folder)
    fails(RuntimeError, "prompt 0, layer [23]", lambda: cna.record(model, PROMPTS[:1]))
    fails(
        RuntimeError,
        r"prompt \d, layer [23]",
        lambda: cna.discover(model, PROMPTS[:2], PROMPTS[2:], universal=None),
    )


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_its_range(tiny: cna.Model, fraction: float) -> None:
    call = lambda: cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], fraction=fraction)  # noqa: E731
    fails(ValueError, "fraction", call)


@pytest.mark.parametrize("k", [0, -1, 257, 2.5])
def test_k_outside_the_grid(tiny: cna.Model, k: Any) -> None:
    call = lambda: cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=k, universal=None)  # noqa: E731
    fails(ValueError, "k", call)


def test_unknown_universal_and_ranking(tiny: cna.Model) -> None:
    fails(
        ValueError,
        "universal",
        lambda: cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], universal="yes"),
    )
    fails(
        ValueError,
        "ranking",
        lambda: cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], universal=None, ranking="best"),
    )
    fails(ValueError, "10 or more", lambda: cna.universal_neurons(tiny, PROMPTS[:3]))


def test_a_circuit_file_cut_short_or_edited(tmp_path: Path, circuit: cna.Circuit) -> None:
    path = tmp_path / "c.json"
    circuit.save(path)
    assert cna.Circuit.load(path) == circuit
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole)[:60])
    fails(ValueError, "c.json", lambda: cna.Circuit.load(path))
    for edit in (
        lambda d: d["neurons"].append(d["neurons"][0]),
        lambda d: d["neurons"].append([99, 0, 1.0]),
        lambda d: d["neurons"].append([0, -1, 1.0]),
        lambda d: d.pop("width"),
        lambda d: d.update(format="other"),
    ):
        data = json.loads(json.dumps(whole))
        edit(data)
        path.write_text(json.dumps(data))
        fails(ValueError, "c.json", lambda: cna.Circuit.load(path))
    path.write_text("")
    fails(ValueError, "c.json", lambda: cna.Circuit.load(path))
    fails(FileNotFoundError, "none.json", lambda: cna.Circuit.load(tmp_path / "none.json"))


def test_a_failed_write_leaves_the_good_file(tmp_path: Path, circuit: cna.Circuit) -> None:
    fails(RuntimeError, "no/such", lambda: circuit.save("/no/such/folder/c.json"))
    folder = tmp_path / "c.json"
    folder.mkdir()
    fails(RuntimeError, "c.json", lambda: circuit.save(folder))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission_as_a_user(tmp_path: Path, circuit: cna.Circuit) -> None:
    tmp_path.chmod(0o500)
    fails(RuntimeError, "c.json", lambda: circuit.save(tmp_path / "c.json"))


def test_no_write_permission(circuit: cna.Circuit) -> None:
    """The kernel's own read-only folder refuses root as well."""
    fails(RuntimeError, "/proc", lambda: circuit.save("/proc/c.json"))
    fails(RuntimeError, "/proc", lambda: cna.export(make_hf("llama"), make_tokenizer(), "/proc/m"))


def test_another_torch_version_says_how_to_rebuild() -> None:
    code = "import torch; torch.__version__ = '2.7.1'\nimport cna"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 1
    last = out.stderr.strip().splitlines()[-1]
    assert "ImportError: cna: expected PyTorch" in last and "pip install" in last


def test_a_device_that_is_not_there(exports: Any) -> None:
    if not torch.cuda.is_available():
        fails(ValueError, "CUDA device", lambda: cna.load(exports("llama"), device="cuda"))


def test_the_grafted_graph_holds_no_leftover_device(exports: Any) -> None:
    """On the meta device every constant left on the CPU would mix devices and fail."""
    for family in ("llama", "gemma2", "gemma3", "gpt2", "gpt_neox", "olmo2", "phi3", "qwen2"):
        model = cna.load(exports(family))
        model.core.to("meta")
        assert model.core.dry_run(2, 5, 3) == [2, 1, 320]
        assert model.core.dry_run(3, 1, 9) == [3, 1, 320]


def test_ctrl_c_stops_a_long_run(exports: Any) -> None:
    code = (
        "import cna, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"m = cna.load({str(exports('llama'))!r})\n"
        "ids = [[i % 200] * 100 for i in range(2000)]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    m.core.generate(ids, max_new_tokens=150, ignore_eos=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    time.sleep(1.0)
    sent = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    waited = time.monotonic() - sent
    assert "KeyboardInterrupt" in err and "terminate" not in err
    assert waited < 10, f"Ctrl-C took {waited:.1f} s"  # a second here, more on a loaded machine


def test_a_folder_stopped_between_its_two_renames_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "export"
    old.mkdir()
    (old / "manifest.json").write_text("old")
    replace, calls = os.replace, []

    def stop_at_the_second(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt), new_folder(old) as folder:
        (folder / "manifest.json").write_text("new")
    assert (old / "manifest.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_double_precision_comes_back(tmp_path: Path) -> None:
    hf = copy.deepcopy(make_hf("llama")).double()
    model = cna.load(cna.export(hf, make_tokenizer(), tmp_path / "e"))
    ids = model.tokenize(PROMPTS)
    with torch.inference_mode():
        expected = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])
    got = model.logits(ids)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    got[0, 0] = 0.0  # an ordinary tensor


def test_a_hugging_face_folder_under_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CNA_CACHE", str(tmp_path / "cache"))
    make_hf("llama").save_pretrained(tmp_path / "mine")
    make_tokenizer().save_pretrained(tmp_path / "mine")
    assert cna.load("~/mine").n_layers == 4
    with pytest.raises(ValueError, match="expected dtype float32"):
        load_hf(str(tmp_path / "mine"), "int8")
    (tmp_path / "mine/model.safetensors").write_bytes(b"short")
    with pytest.raises(RuntimeError, match="expected a Hugging Face model"):
        load_hf(str(tmp_path / "mine"))
