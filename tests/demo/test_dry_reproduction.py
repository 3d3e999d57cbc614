"""The whole of `cna reproduce` on the default model, with itself without chat as the base model."""

from __future__ import annotations

from pathlib import Path

import cna
import pandas as pd
import pytest
from cna.cli import main

pytestmark = pytest.mark.smollm2


def test_every_part_runs_on_the_default_model(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Few prompts: that it runs and writes everything, not what it finds."""
    quiz = cna.prompts.read_quiz()[:8]
    lines = [",".join(f'"{x}"' for x in (q.question, *q.choices, q.letter)) for q in quiz]
    (tmp_path / "general_test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = cna.tasks.load("capability-refusal")  # in the place of a user's own lists
    goals = ["Goal", *(f'"{prompt}"' for prompt in task.positive[:16])]
    (tmp_path / "goals.csv").write_text("\n".join(goals) + "\n", encoding="utf-8")
    (tmp_path / "benign.txt").write_text("\n".join(task.negative[:16]) + "\n", encoding="utf-8")
    out = tmp_path / "run"
    words = ["reproduce", "--model", "smollm2", "--base", "smollm2", "--quick", "--out", str(out)]
    words += ["--jbb", str(tmp_path / "goals.csv"), "--benign", str(tmp_path / "benign.txt")]
    assert main([*words, "--mmlu", str(tmp_path), "--k", "50"]) == 0
    printed = capsys.readouterr().out
    names = "refusal quality controls mmlu examples layers layer_counts overlap".split()
    for name in names:
        table = pd.read_csv(out / f"{name}.csv")
        assert len(table), name
    assert "right answers at every alpha" in printed and "Base against instruct" in printed
    figures = {path.stem for path in (out / "figures").glob("*.png")}
    assert {"strengths", "quality", "accuracy", "layers-base-refusal"} <= figures
    overlap = pd.read_csv(out / "overlap.csv").set_index("task")
    # The same weights, asked in chat form and raw: other last tokens, other neurons.
    assert (overlap["shared"] < 50).all() and (overlap["shared"] > 0).any()
    examples = pd.read_csv(out / "examples.csv")
    assert list(examples.multiplier) == [1, 0, 2] * 2 and examples.answer.notna().any()
