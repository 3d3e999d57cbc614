"""C++ callers of cna with other compiler flags than the library's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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

