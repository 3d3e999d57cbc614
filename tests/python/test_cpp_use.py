"""cna as a C++ library: find_package after pip, a caller's own Torch, FetchContent, the example."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SITE = Path(torch.__file__).parent.parent

pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")


def build(source: Path, folder: Path, *options: str) -> Path:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (
        [CMAKE, "-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Debug", *options],
        [CMAKE, "--build", folder, "-j2"],
    ):
        done = subprocess.run(
            [str(c) for c in command], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def cmake_dir() -> str:
    out = subprocess.run(
        [sys.executable, "-m", "cna", "cmake-dir"], capture_output=True, text=True, check=True
    )
    folder = Path(out.stdout.strip())
    assert (folder / "cnaConfig.cmake").exists()
    return f"-Dcna_DIR={folder}"


def check_consumer(folder: Path, model: Path) -> None:
    core = subprocess.run([folder / "core_only"], capture_output=True, text=True)
    assert core.returncode == 0 and core.stdout == "1 2\n"
    linked = subprocess.run(["ldd", folder / "core_only"], capture_output=True, text=True).stdout
    assert "libtorch" not in linked and "libc10" not in linked
    out = subprocess.run([folder / "with_torch", model], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    expected = cna.load(model).core.generate([[1, 2, 3], [4, 5]], max_new_tokens=4, ignore_eos=True)
    assert [[int(t) for t in line.split()] for line in out.stdout.splitlines()] == expected


def test_find_package_after_pip_install(tmp_path: Path, exports: Any) -> None:
    check_consumer(build(ROOT / "tests/consumer", tmp_path, cmake_dir()), exports("llama"))


def test_find_package_with_the_callers_own_torch(tmp_path: Path, exports: Any) -> None:
    torch_dir = f"-DTorch_DIR={SITE / 'torch/share/cmake/Torch'}"
    folder = build(ROOT / "tests/consumer", tmp_path, cmake_dir(), torch_dir, "-DOWN_TORCH=ON")
    check_consumer(folder, exports("llama"))


def test_fetch_content(tmp_path: Path, exports: Any) -> None:
    folder = build(
        ROOT / "tests/consumer", tmp_path, "-DFROM_SOURCE=ON", f"-DCMAKE_PREFIX_PATH={SITE}"
    )
    check_consumer(folder, exports("llama"))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / "examples/cpp", tmp_path_factory.mktemp("example"), cmake_dir())


@pytest.mark.parametrize("format", ["torchscript", "aoti"])
def test_the_example_finds_and_steers_without_python(
    format: str, example: Path, tmp_path: Path, exports: Any
) -> None:
    exported = exports("llama", format=format)
    model = cna.load(exported)
    ids = model.tokenize(PROMPTS)
    for name, rows in (("pos", ids[:4]), ("neg", ids[4:]), ("prompt", ids[:2])):
        lines = [" ".join(map(str, row)) for row in rows]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    arguments = [exported, *(tmp_path / f"{n}.txt" for n in ("pos", "neg", "prompt"))]
    out = subprocess.run(
        [example / "find_and_steer", *arguments, tmp_path / "c.json"],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    circuit = cna.Circuit.load(tmp_path / "c.json")
    expected = cna.discover(model, ids[:4], ids[4:], universal=None)
    assert circuit.neurons == expected.neurons
    with model.steer(circuit, 0.0):
        answers = model.generate(ids[:2], max_new_tokens=16, return_tokens=True)
    steered = [line for line in out.stdout.splitlines() if line.startswith("steered:")]
    assert steered == ["steered: " + " ".join(map(str, a)) for a in answers]
    bad = subprocess.run(
        [example / "find_and_steer", "/no/such", *arguments[1:], tmp_path / "d.json"],
        capture_output=True,
        text=True,
    )
    assert (bad.returncode == 2 and "found nothing" in bad.stderr) or "manifest" in bad.stderr
