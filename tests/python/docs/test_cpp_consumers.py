"""C++ callers of cna with other compiler flags than the library's, and the core without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).parents if (p / "CMakeLists.txt").exists())
BIN = Path(sys.executable).parent
CMAKE = shutil.which("cmake", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")

pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env={**os.environ, **environment}
    )


def succeed(*command: object, **environment: str) -> str:
    done = run(*command, **environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.nightly  # builds three flavours with torch
def test_a_caller_with_other_flags_frees_the_librarys_arrays(tmp_path: Path) -> None:
    """Eigen picks its allocator by the flags: 32 bytes under AVX, its own way under ASan."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    folder = succeed(sys.executable, "-m", "cna", "cmake-dir").strip()
    options = ["-DFLAVOURS=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1"]
    options += [f"-Dcna_DIR={folder}"]
    succeed(CMAKE, "-S", ROOT / "tests/consumer", "-B", tmp_path, *options, PATH=path)
    names = [f"flags_{flavour}" for flavour in ("plain", "native", "asan")]
    succeed(CMAKE, "--build", tmp_path, "-j2", "--target", *names, PATH=path)
    # LibTorch keeps registries and pools until the process ends.
    circuits = [succeed(tmp_path / name, ASAN_OPTIONS="detect_leaks=0") for name in names]
    assert len(circuits[0].splitlines()) == 8
    assert circuits[1:] == [circuits[0]] * 2


@pytest.fixture(scope="module")
def torchless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of Python packages without torch, and an environment that does not lead to it."""
    site = tmp_path_factory.mktemp("site")
    for package in ("cmeel.prefix", "nlohmann_json", "catch2"):
        source = Path(sysconfig.get_path("platlib")) / package
        if source.exists():  # else the system's own
            (site / package).symlink_to(source)
    folders = [f for f in os.environ["PATH"].split(os.pathsep) if f and Path(f) != BIN]
    return site, {"PATH": os.pathsep.join(folders)}


@pytest.mark.nightly  # builds and tests the core once more
def test_the_core_builds_installs_and_serves_without_torch(
    tmp_path: Path, torchless: tuple[Path, dict[str, str]]
) -> None:
    site, environment = torchless
    shared = [f"-DCMAKE_PREFIX_PATH={site}", "-DCMAKE_BUILD_TYPE=Debug"]
    shared += ["-DCMAKE_CXX_FLAGS_DEBUG=-O0"]  # built for one short run
    core = tmp_path / "core"
    options = [*shared, "-DCNA_TORCH=OFF", "-DCNA_TESTS=ON"]
    out = succeed(CMAKE, "-S", ROOT, "-B", core, *options, **environment)
    assert "PyTorch" not in out and "CNA_TORCH_ROOT" not in (core / "CMakeCache.txt").read_text()
    succeed(CMAKE, "--build", core, "-j2", **environment)
    ctest = Path(str(CMAKE)).with_name("ctest")
    assert "100% tests passed" in succeed(ctest, "--test-dir", core, **environment)

    prefix = tmp_path / "prefix"
    succeed(CMAKE, "--install", core, "--prefix", prefix, **environment)
    assert (prefix / "include/cna/circuit.hpp").exists()
    assert not (prefix / "include/cna/torch").exists()
    consumer = tmp_path / "consumer"
    options = [*shared, f"-Dcna_DIR={prefix / 'share/cmake/cna'}"]
    succeed(CMAKE, "-S", ROOT / "tests/consumer", "-B", consumer, *options, **environment)
    succeed(CMAKE, "--build", consumer, "-j2", **environment)
    assert succeed(consumer / "core_only") == "1 2\n"

    asks = tmp_path / "asks"
    asks.mkdir()
    (asks / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(asks LANGUAGES CXX)\n"
        "find_package(cna REQUIRED CONFIG COMPONENTS torch)\n"
    )
    refused = run(CMAKE, "-S", asks, "-B", asks / "build", *options, **environment)
    assert refused.returncode != 0
    assert "built with -DCNA_TORCH=OFF" in " ".join(refused.stderr.split())
