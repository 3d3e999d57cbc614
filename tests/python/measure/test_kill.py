"""A sweep that is killed and started again loses nothing finished and ends with the same table."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cna
import pandas as pd
import pytest
from conftest import PROMPTS

N_EVALUATION, N_BENIGN = 40, 24
MULTIPLIERS = "-1,0,0.5,2"
ARMS, DRAWS = 5, 4  # with the model itself; random neurons answer no benign prompts
ANSWERS = ARMS * (N_EVALUATION + N_BENIGN) + DRAWS * N_EVALUATION


def write_task(path: Path) -> None:
    rows = [(f"{p} yes", "positive") for p in PROMPTS] + [(f"no {p}", "negative") for p in PROMPTS]
    rows += [(f"Say the number {i} now", "evaluation") for i in range(N_EVALUATION)]
    rows += [(f"Count up to {i}", "benign") for i in range(N_BENIGN)]
    pd.DataFrame(rows, columns=["prompt", "label"]).to_csv(path, index=False)


def start(folder: Path, work: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "cna", "sweep", "--model", str(folder)),
            *("--task", str(work / "task.csv"), "--circuit", str(work / "c.json")),
            *(f"--multipliers={MULTIPLIERS}", "--baselines", "random", "--max-new-tokens", "8"),
            *("--draws", str(DRAWS)),
            *("--batch-size", "4", "--quiz-questions", "0", "--out", str(out)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def whole_rows(log: Path) -> dict[tuple[str, str, int], list[int]]:
    """What the log holds, without the library's own reader."""
    if not log.exists():
        return {}
    lines = log.read_bytes().split(b"\n")[:-1]  # the last piece has no newline: cut short
    rows = [json.loads(line) for line in lines[1:]]
    return {(r["arm"], r["set"], r["index"]): r["tokens"] for r in rows}


def kill_when(process: subprocess.Popen[bytes], moment: Any) -> None:
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    assert process.returncode == -9


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_a_killed_sweep_loses_nothing_finished_and_ends_with_the_same_table(
    kills: int, tiny: cna.Model, exports: Any, tmp_path: Path
) -> None:
    folder = exports("llama")
    write_task(tmp_path / "task.csv")
    cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=10, universal=None).save(tmp_path / "c.json")
    whole = start(folder, tmp_path, tmp_path / "whole")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors.decode()

    out = tmp_path / "killed"
    log = out / "answers.jsonl"
    moments = sorted(random.Random(5).sample(range(20, ANSWERS * 3 // 4), kills))
    kept: dict[tuple[str, str, int], list[int]] = {}
    for n in moments:
        size = 60 * n  # bytes: so the kill may fall inside a line or a write
        kill_when(
            start(folder, tmp_path, out),
            lambda size=size: log.exists() and log.stat().st_size >= size,
        )
        now = whole_rows(log)
        assert len(now) > len(kept)
        assert all(now[key] == tokens for key, tokens in kept.items())
        kept = now
    assert 0 < len(kept) < ANSWERS
    # Once more when all is answered and the results are being written.
    kill_when(start(folder, tmp_path, out), (out / "table.csv").exists)
    now = whole_rows(log)
    assert len(now) == ANSWERS and all(now[key] == tokens for key, tokens in kept.items())

    last = start(folder, tmp_path, out)
    _, errors = last.communicate()
    assert last.returncode == 0, errors.decode()
    assert whole_rows(log) == now == whole_rows(tmp_path / "whole" / "answers.jsonl")
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "table.csv"), pd.read_csv(tmp_path / "whole" / "table.csv"), rtol=1e-6
    )
    rows = len(log.read_bytes().splitlines()) - 1
    assert rows == ANSWERS, "an answer was made twice"
