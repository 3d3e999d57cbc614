"""Damaged GGUF files: the patcher writes a whole file or says in one line what is wrong.

Random mutations, for `make fuzz` without atheris too; the search by coverage is fuzz/gguf_patcher.py.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

pytest.importorskip("gguf")

ROOT = Path(os.environ.get("CNA_SOURCE") or Path(__file__).parents[3])
sys.path.insert(0, str(ROOT / "fuzz"))

from gguf_cases import broken_seeds, check, mutate, valid_seeds  # noqa: E402

SECONDS = 2.0  # make fuzz goes on with this
VALID, BROKEN = valid_seeds(), broken_seeds()
CORPUS = sorted((ROOT / "fuzz/corpus_gguf").iterdir())


def out_of_time(_: int, __: FrameType | None) -> None:
    raise TimeoutError("one file took longer than 20 s")


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", VALID)
def test_a_whole_file_is_patched(name: str, tmp_path: Path) -> None:
    assert check(VALID[name], tmp_path) == ""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    assert check(BROKEN[name], tmp_path)


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.name)
def test_what_the_fuzzer_kept_is_patched_or_refused(path: Path, tmp_path: Path) -> None:
    check(path.read_bytes(), tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_mutated_file_is_patched_whole_or_refused_in_one_line(tmp_path: Path) -> None:
    files = [*VALID.values(), *BROKEN.values()]
    rng = random.Random(20)
    runs = patched = 0
    start = time.monotonic()
    while runs < 100 or time.monotonic() - start < SECONDS:
        signal.alarm(20)
        patched += not check(mutate(rng.choice(files), rng), tmp_path)
        runs += 1
    print(f"{runs} mutated files, {patched} patched")
    assert patched > 0
