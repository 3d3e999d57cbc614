"""cna as a C++ library: find_package, a caller's own Torch, FetchContent, the example, the docs."""

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
from pages import PAGES, blocks

ROOT = Path(__file__).parents[3]
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SITE = Path(torch.__file__).parent.parent

pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")


def build(source: Path, folder: Path, *options: str, target: str = "all") -> Path:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (
        [CMAKE, "-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Debug", *options],
        [CMAKE, "--build", folder, "-j2", "--target", target],
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


def check_core(folder: Path) -> None:
    """No LibTorch is linked by a caller of the core."""
    core = subprocess.run([folder / "core_only"], capture_output=True, text=True)
    assert core.returncode == 0 and core.stdout == "1 2\n"
    linked = subprocess.run(["ldd", folder / "core_only"], capture_output=True, text=True).stdout
    assert "libtorch" not in linked and "libc10" not in linked


def check_consumer(folder: Path, model: Path) -> None:
    check_core(folder)
    out = subprocess.run([folder / "with_torch", model], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    expected = cna.load(model).core.generate([[1, 2, 3], [4, 5]], max_new_tokens=4, ignore_eos=True)
    assert [[int(t) for t in line.split()] for line in out.stdout.splitlines()] == expected


def test_find_package_gives_the_core_after_pip_install(tmp_path: Path) -> None:
    """The example and the pages below link cna::torch in the same way."""
    check_core(build(ROOT / "tests/consumer", tmp_path, cmake_dir(), target="core_only"))


@pytest.mark.nightly  # builds with torch
def test_find_package_after_pip_install(tmp_path: Path, exports: Any) -> None:
    check_consumer(build(ROOT / "tests/consumer", tmp_path, cmake_dir()), exports("llama"))


@pytest.mark.nightly  # likewise
def test_find_package_with_the_callers_own_torch(tmp_path: Path, exports: Any) -> None:
    torch_dir = f"-DTorch_DIR={SITE / 'torch/share/cmake/Torch'}"
    folder = build(ROOT / "tests/consumer", tmp_path, cmake_dir(), torch_dir, "-DOWN_TORCH=ON")
    check_consumer(folder, exports("llama"))


@pytest.mark.nightly  # builds the whole library once more
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
    for ranking, more in (("mean_difference", []), ("contribution", ["contribution"])):
        out = subprocess.run(
            [example / "find_and_steer", *arguments, tmp_path / "c.json", *more],
            capture_output=True,
            text=True,
        )
        assert out.returncode == 0, out.stderr
        circuit = cna.Circuit.load(tmp_path / "c.json")
        expected = cna.discover(model, ids[:4], ids[4:], universal=None, ranking=ranking)
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


def write_blocks(folder: Path) -> list[str]:
    """Each C++ block of the pages as a header, page_n.hpp, in a namespace of that name."""
    names = []
    for page in PAGES:
        for number, body in enumerate(blocks(page, "cpp"), start=1):
            names.append(f"{page.stem.replace('-', '_')}_{number}")
            lines = body.splitlines()
            includes = [line for line in lines if line.startswith("#include")]
            rest = [line for line in lines if line not in includes]
            text = ["#pragma once", *includes, f"namespace {names[-1]} {{", *rest, "}"]
            (folder / f"{names[-1]}.hpp").write_text("\n".join(text) + "\n", encoding="utf-8")
    return names


def test_the_blocks_of_readme_and_docs_run(tmp_path: Path, exports: Any) -> None:
    names = write_blocks(tmp_path)
    main = (ROOT / "tests/docs_cpp/main.cpp").read_text("utf-8")
    assert names and [name for name in names if f"{name}::" not in main] == []
    recipes = [body for page in PAGES for body in blocks(page, "cmake")]
    assert len(recipes) == 1
    (tmp_path / "blocks.cmake").write_text(recipes[0])
    (tmp_path / "smollm2-exported").symlink_to(exports("llama"))  # the names in the blocks
    (tmp_path / "smollm2-aoti").symlink_to(exports("llama", format="aoti"))
    folder = build(ROOT / "tests/docs_cpp", tmp_path / "build", cmake_dir(), f"-DBLOCKS={tmp_path}")
    done = subprocess.run([folder / "app"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    model = cna.load(exports("llama"))
    positive, negative = [[1, 2, 3], [4, 5, 6, 7], [8]], [[9, 10], [11, 12, 13, 14, 15]]
    circuit = cna.discover(model, positive, negative, fraction=0.001, universal=None)
    found = " ".join(f"{n.layer},{n.index}" for n in circuit) + " "
    with model.steer(circuit, 0.0):
        ablated = model.generate([[16, 17], [18, 19, 20]], max_new_tokens=16, return_tokens=True)
    with model.steer(circuit, [-1.0, 0.0, 1.0]):
        swept = model.generate([[16, 17]] * 3, max_new_tokens=32, return_tokens=True)
    answers = [" ".join(map(str, answer)) for answer in (*ablated, *swept)]
    mean = cna.record(model, positive[:2], site="residual").double().mean(0)
    one_pass = f"{mean.shape[0]} {mean.shape[1]} {mean.abs().sum():.4f}"
    assert done.stdout.splitlines() == [
        found,
        *answers[:2],
        found,
        *answers[2:],
        one_pass,
        "0,1 1,0 ",
    ]
