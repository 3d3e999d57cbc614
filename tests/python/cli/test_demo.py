"""The demo on a tiny model: its table holds what the run's files hold."""

from __future__ import annotations

import copy
from pathlib import Path

import cna
import pandas as pd
import pytest
from cna.cli import demo
from conftest import make_hf, make_tokenizer


def test_the_demo_prints_the_table_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = copy.deepcopy(make_hf("llama"))
    hf.config.max_position_embeddings = 4096  # one token a byte: an instruction is long
    model = cna.load(cna.export(hf, make_tokenizer(), tmp_path / "tiny"))
    monkeypatch.setattr(demo, "load", lambda name: model)
    monkeypatch.setattr(demo, "DRAWS", 3)
    out = tmp_path / "run"
    assert demo.run_demo(out, "tiny", max_prompts=4, max_new_tokens=4) == 0
    printed = capsys.readouterr().out
    lines = (out / "table.md").read_text("utf-8").splitlines()
    assert all(f"   {line}" in printed for line in lines if line)
    table = pd.read_csv(out / "table.csv")
    answers = pd.read_csv(out / "answers.csv", keep_default_na=False)
    first, second = [[c.strip() for c in x.split("|")[1:-1]] for x in lines if "| ---" in x]
    assert len(first) == 7 and len(second) == 3
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in lines if x.startswith("| ")]
    measured = [r for r in rows if len(r) == 7 and "[" in r[1]]
    fixed = table[table.kind != "random"]
    assert [r[0] for r in measured] == [
        "the model",
        "circuit by delta m = 0",
        "circuit by contribution m = 0",
        "CAA layer 2 c = −0.5",
        "instruction",
        "logit bias b = −0.5",
    ]
    for cells, row in zip(measured, fixed.to_dict("records"), strict=True):
        assert cells[1] == f"{row['rate']:.2f} [{row['rate_low']:.2f}, {row['rate_high']:.2f}]"
        assert cells[2:4] == [f"{row['other']:.2f}", f"{row['broken']:.2f}"]
        assert cells[4].startswith(f"{row['kl_benign']:.3f} [")
        assert cells[5] == f"{row['answer_perplexity']:.1f}"
    (control,) = [r for r in rows if r[0].startswith("random, of equal KL, 3 draws on 4 prompts")]
    assert "p = " in control[1]
    prompts = cna.tasks.load("capability-refusal").evaluation[:2]
    (head,) = [r for r in rows if len(r) == 3 and r[0] == "setting"]
    assert head[1:] == prompts
    assert sum(len(r) == 3 for r in rows) == 2 + len(fixed)  # with the rule below the head
    assert set(answers.outcome) <= {"behaviour", "other", "broken"}
    # The second behaviour stands in a folder of its own, with other strengths.
    second = pd.read_csv(out / "answer-language" / "table.csv")
    assert set(second.method) == {"cna", "contribution", "caa", "prompt", "logit-bias", "random-kl"}
    assert sorted(second[second.method == "cna"].strength) == [0.5, 1.0]
    ranked = second[second.method == "contribution"].iloc[0]
    assert ranked.strength == 0.5
    model_says = pd.read_csv(out / "answer-language" / "answers.csv", keep_default_na=False)
    task = cna.tasks.load("answer-language")
    circuit = cna.discover(
        model, task.positive, task.negative, k=round(0.001 * 256) or 1, ranking="contribution"
    )
    with model.steer(circuit, 0.5):
        expected = model.generate(task.evaluation[:4], 4, progress=False)
    mine = model_says[(model_says.method == "contribution") & (model_says.set == "evaluation")]
    assert mine.sort_values("index").answer.tolist() == expected
