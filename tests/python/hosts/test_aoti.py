"""Compiled packages: refused where they cannot run, and stopped, moved and edited like any model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
import transformers
from conftest import PROMPTS, hf_record, make_hf, make_tokenizer, random_ids

ONE_LINE = re.compile(r"^[\w.:]+: expected [^\n]+; [^\n]+$")


def fails(kind: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        call()
    assert ONE_LINE.match(str(caught.value)), str(caught.value)


@pytest.fixture(scope="module")
def package(exports: Any) -> Path:
    return exports("llama", format="aoti")


@pytest.fixture(scope="module")
def compiled(package: Path) -> cna.Model:
    return cna.load(package)


def with_manifest(package: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(package, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def test_batches_of_any_shape_equal_single_prompts(compiled: cna.Model) -> None:
    generator = torch.Generator().manual_seed(5)
    ids = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (1, 2, 3, 17, 30, 1)]
    apart = compiled.logits(ids, batch_size=1, share_prefix=False)
    for batch_size in (2, 3, 6):
        together = compiled.logits(ids, batch_size=batch_size)
        assert (apart - together).abs().max() <= 1e-4 * apart.abs().max()


def test_every_site_records_what_the_archive_records(package: Path, exports: Any) -> None:
    compiled, traced = cna.load(package), cna.load(exports("llama"))
    for site in ("neuron", "mlp_output", "residual"):
        expected = cna.record(traced, PROMPTS, site=site)
        got = cna.record(compiled, PROMPTS, site=site)
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max(), site


def test_scores_equal_those_of_the_archive(compiled: cna.Model, exports: Any) -> None:
    traced = cna.load(exports("llama"))
    prompts, answers = traced.tokenize(PROMPTS[:4]), [[65, 66, 67], [1], [2, 3], [90, 91]]
    steering = cna.Intervention.scale(cna.Circuit((4, 64), [cna.Neuron(1, 3, 1.0)]), [1.0, 0.0])
    expected = traced.core.divergence(prompts, answers, intervention=steering)
    got = compiled.core.divergence(prompts, answers, intervention=steering)
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.nightly  # compiles one more
def test_a_bfloat16_package_follows_eager(exports: Any) -> None:
    hf = make_hf("llama", torch.bfloat16)
    model = cna.load(exports("llama", torch.bfloat16, format="aoti"))
    assert model.dtype == torch.bfloat16
    ids = model.tokenize(PROMPTS)
    plain = torch.from_numpy(hf_record(hf, ids))
    assert (cna.record(model, ids) - plain).abs().max() <= 0.05 * plain.abs().max()


def test_taps_leave_the_model_after_export(package: Path) -> None:
    assert package
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in make_hf("llama").modules())


def test_the_package_by_itself_is_the_model(package: Path) -> None:
    """Without cna's host nobody listens at the taps."""
    alone = torch._inductor.aoti_load_package(str(package / "model.pt2"))
    hf, ids = make_hf("llama"), torch.arange(40, 49)[None]
    buffers = [torch.zeros(1, 2, 9, 8) for _ in range(8)]
    steps = torch.arange(9)
    got = alone(ids, torch.ones_like(ids), steps[None], steps, steps, *buffers)
    with torch.inference_mode():
        expected = hf(ids).logits
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_ctrl_c_stops_a_run_and_leaves_no_trace(
    compiled: cna.Model, capfd: pytest.CaptureFixture[str]
) -> None:
    # A shell starts its background jobs with the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = compiled.logits(PROMPTS)
    circuit = cna.Circuit((4, 64), [cna.Neuron(0, 1, 1.0)])
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt), compiled.steer(circuit, 0.0):
            for _ in range(1000):
                compiled.core.generate([[1, 2, 3]] * 8, max_new_tokens=200, ignore_eos=True)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, handler)
    assert "rror" not in "".join(capfd.readouterr())
    assert torch.equal(compiled.logits(PROMPTS), before)


def test_a_changed_or_truncated_package_is_refused(package: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(package, tmp_path / "m")
    whole = (folder / "model.pt2").read_bytes()
    (folder / "model.pt2").write_bytes(whole[: len(whole) // 2])
    fails(RuntimeError, "SHA-256 differs", lambda: cna.load(folder))
    fails(RuntimeError, "AOTInductor package", lambda: cna.load(folder, verify=False))
    (folder / "model.pt2").unlink()
    fails(FileNotFoundError, "found nothing", lambda: cna.load(folder))
    fails(RuntimeError, "expected the folder", lambda: cna.load(package / "model.pt2"))
    fails(FileNotFoundError, "found nothing", lambda: cna.load("no_such_model.pt2"))


def test_another_torch_processor_or_device_is_named(package: Path, tmp_path: Path) -> None:
    old = with_manifest(package, tmp_path / "old", made_with={"torch": "1.13.1"})
    fails(RuntimeError, "got one of 1.13.1", lambda: cna.load(old))
    other = with_manifest(package, tmp_path / "other", cpu_capability="ZVECTOR")
    fails(RuntimeError, "got one for ZVECTOR", lambda: cna.load(other))
    cuda = with_manifest(package, tmp_path / "cuda", device="cuda")
    fails(ValueError, "expected device 'cuda'", lambda: cna.load(cuda))
    fails(ValueError, "expected device 'cpu'", lambda: cna.load(package).core.to("meta"))
    assert cna.load(package).to("cpu").device == torch.device("cpu")


def test_a_pattern_belongs_to_the_export(package: Path) -> None:
    fails(ValueError, "compiled with", lambda: cna.load(package, pattern="up_proj"))
    manifest = json.loads((package / "manifest.json").read_text())
    assert cna.load(package, pattern=manifest["tap_pattern"]).n_layers == 4
    hf = make_hf("llama")
    with pytest.raises(ValueError, match="found none among"):
        cna.export(hf, None, package.parent / "x", format="aoti", tap_pattern="no_such_layer")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    fails(
        ValueError, "got 'onnx'", lambda: cna.export(make_hf(), None, tmp_path / "x", format="onnx")
    )
    fails(ValueError, "got 'AOTI'", lambda: cna.load("smollm2", format="AOTI"))


def test_a_model_that_does_not_compile_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "half").write_text("weights")
        raise AssertionError("no kernel\nat line 3 of a long trace")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", broken)
    fails(
        RuntimeError,
        "got: no kernel; use format='torchscript'",
        lambda: cna.export(make_hf(), make_tokenizer(), tmp_path / "x", format="aoti"),
    )
    assert not list(tmp_path.iterdir())


def test_flat_activations_are_refused_by_packages_and_taken_by_graphs(tmp_path: Path) -> None:
    """OPT flattens rows and tokens before its MLP."""
    config = transformers.OPTConfig(
        **{"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"vocab_size": 320, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
    )
    hf = transformers.OPTForCausalLM(config).eval()
    with pytest.raises(RuntimeError, match="of 2 dimensions"):
        cna.export(hf, None, tmp_path / "aoti", format="aoti")
    model = cna.load(cna.export(hf, None, tmp_path / "traced"))
    ids = random_ids([5, 9, 3], seed=1)
    seen: list[torch.Tensor] = []
    for layer in hf.model.decoder.layers:
        layer.fc2.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].reshape(-1, 64)[-1])
        )
    with torch.no_grad():
        logits = torch.stack([hf(torch.tensor([p])).logits[0, -1] for p in ids])
    got = model.record(ids, progress=False)
    torch.testing.assert_close(got, torch.stack(seen).view(3, 2, 64), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.logits(ids, progress=False), logits, rtol=1e-4, atol=1e-5)


def test_the_doctor_finds_a_package_sound(package: Path, tiny_hf: Any) -> None:
    assert [str(c) for c in cna.doctor.check(cna.load(package), tiny_hf) if not c.passed] == []
