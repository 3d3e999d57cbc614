"""What `make demo` wrote, counted again from its own files, and its answers against plain hooks.

Run by `make demo-check` on demo-out/, or on the folder that $CNA_DEMO names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
import torch
from cna.cli.demo import DRAW_PROMPTS, DRAWS
from cna.loading import load_hf
from cna.measure.tuning.choice import Choice
from cna.measure.tuning.search import within
from cna.measure.tuning.tune import halves
from scipy import stats

pytestmark = pytest.mark.smollm2

ROOT = Path(__file__).parents[2]
RUN = Path(os.environ.get("CNA_DEMO") or ROOT / "demo-out")
TASK = cna.tasks.load("capability-refusal")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(RUN / "table.csv")


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    frame = pd.read_csv(RUN / "answers.csv", keep_default_na=False)
    frame["draw"] = pd.to_numeric(frame["draw"])
    return frame[frame.set == "evaluation"]


@pytest.fixture(scope="module")
def circuit() -> cna.Circuit:
    return cna.Circuit.load(RUN / "circuit.json")


@pytest.fixture(scope="module")
def hf() -> Any:
    return load_hf("smollm2")[0].eval()


def arm(table: pd.DataFrame, method: str, strength: float) -> Any:
    (row,) = table[(table.method == method) & (table.strength == strength)].itertuples()
    return row


def answers_of(answers: pd.DataFrame, row: Any) -> pd.DataFrame:
    """The answers of a row's arm, by the prompts' order."""
    same = (answers.method == row.method) & (answers.strength == row.strength)
    same &= answers.draw.isna() if np.isnan(row.draw) else answers.draw == row.draw
    return answers[same].sort_values("index").set_index("index")


# --- the files agree with each other --------------------------------------------------------------


def test_the_circuit_is_a_thousandth_of_all_neurons(circuit: cna.Circuit) -> None:
    assert circuit.shape == (30, 1536)
    assert len(circuit) == round(0.001 * 30 * 1536) == 46
    assert circuit.layer_counts[-1] >= 30  # most of it sits in the last layer
    strengths = [abs(n.delta) for n in circuit]
    assert strengths == sorted(strengths, reverse=True) and strengths[-1] > 0
    assert circuit.universal_removed
    assert not {(n.layer, n.index) for n in circuit} & set(circuit.universal_removed)
    assert circuit.provenance["positive_prompts"] == len(TASK.positive)


def test_every_arm_answered_every_prompt_and_rates_count_the_outcomes(
    table: pd.DataFrame, answers: pd.DataFrame
) -> None:
    assert {("cna", 1.0), ("cna", 0.0), ("contribution", 0.0)} <= set(
        zip(table.method, table.strength, strict=True)
    )
    base = answers_of(answers, arm(table, "cna", 1.0))
    for row in table.itertuples():
        mine = answers_of(answers, row)
        asked = DRAW_PROMPTS if row.kind == "random" else len(TASK.evaluation)
        assert list(mine.prompt) == TASK.evaluation[:asked]
        judged = TASK.judge.judge_all(list(mine.answer), list(mine.prompt))
        assert judged == list(mine.judged)
        broken = mine.outcome == "broken"
        assert list(mine.hit) == list(mine.judged & ~broken)
        assert (row.n, row.hits) == (asked, mine.hit.sum())
        for column, shares in (
            ("rate", mine.hit),
            ("broken", broken),
            ("other", ~mine.hit & ~broken),
            ("judged", mine.judged),
        ):
            assert getattr(row, column) == pytest.approx(np.mean(shares))
        assert row.quality == pytest.approx(mine.quality.mean())
        wilson = stats.binomtest(row.hits, row.n).proportion_ci(method="wilson")
        assert (row.rate_low, row.rate_high) == pytest.approx((wilson.low, wilson.high))
        before = base.hit[mine.index]
        gained, lost = int((mine.hit & ~before).sum()), int((before & ~mine.hit).sum())
        p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert row.p_value == pytest.approx(p)


def test_the_page_holds_the_rates_and_every_figure(table: pd.DataFrame) -> None:
    page = (RUN / "report.html").read_text("utf-8")
    figures = sorted((RUN / "figures").glob("*.png"))
    assert len(figures) >= 2 and all(f.stat().st_size > 5000 for f in figures)
    assert page.count("data:image/png;base64,") >= len(figures)
    assert "capability-refusal" in page and "SmolLM2-135M-Instruct" in page
    settings = json.loads((RUN / "run.json").read_text("utf-8"))
    assert settings["task"] == TASK.name


# --- what the circuit should do -------------------------------------------------------------------


def test_ablation_changes_answers_and_draws_disturb_as_much(
    table: pd.DataFrame, answers: pd.DataFrame
) -> None:
    base, ablated = arm(table, "cna", 1.0), arm(table, "cna", 0.0)
    assert base.kl_benign == 0 and base.p_value == 1
    assert 0.3 <= base.rate
    assert ablated.other - base.other >= 0.1
    assert ablated.p_value < 0.01 and ablated.kl_benign > 0
    draws = table[table.kind == "random"]
    assert len(draws) == DRAWS
    assert draws.kl_benign.median() == pytest.approx(ablated.kl_benign, rel=0.5)


def test_ranked_by_contribution_it_disturbs_less(
    table: pd.DataFrame, answers: pd.DataFrame
) -> None:
    delta, ranked = arm(table, "cna", 0.0), arm(table, "contribution", 0.0)
    assert ranked.kl_benign <= delta.kl_benign / 4
    assert ranked.rate <= delta.rate + 0.05


def test_the_language_is_switched_and_draws_do_not() -> None:
    """Answers to Spanish questions: both circuits at m = 0.5, none of the draws of equal KL."""
    table = pd.read_csv(RUN / "answer-language" / "table.csv")
    base, half = arm(table, "cna", 1.0), arm(table, "cna", 0.5)
    ranked = arm(table, "contribution", 0.5)
    for row in (half, ranked):
        assert row.rate <= base.rate / 2 and row.other >= base.other + 0.3
        assert row.broken <= base.broken + 0.05
    assert ranked.kl_benign <= half.kl_benign / 2
    draws = table[table.kind == "random"]
    assert len(draws) == DRAWS and (draws.rate >= half.rate).all()


@pytest.mark.parametrize(
    ("mark", "folder", "share"), [("demo", "", 0.06), ("language", "answer-language", 0.1)]
)
def test_the_readme_prints_this_run(mark: str, folder: str, share: float) -> None:
    """To three answers of 64, or of 32: another processor may break a tie in another way."""
    text = (ROOT / "README.md").read_text("utf-8")
    (block,) = re.findall(f"<!-- {mark}:begin -->\n(.*?)<!-- {mark}:end -->", text, re.S)
    printed = block.strip().splitlines()
    made = (RUN / folder / "table.md").read_text("utf-8").splitlines()
    assert len(printed) == len(made)
    for one, two in zip(printed, made, strict=True):
        cells, own = one.split("|"), two.split("|")
        assert len(cells) == len(own) and cells[:2] == own[:2]
        if "[" not in one:  # answers, or a control
            continue
        for a, b, most in zip(
            cells[2:], own[2:], (share, share, share, 0.1, 5.0, 0.2, 0.0), strict=True
        ):
            numbers = [[float(x) for x in re.findall(r"-?\d+\.\d+", c)] for c in (a, b)]
            assert numbers[0] == pytest.approx(numbers[1], abs=most, rel=0.2)


@pytest.mark.nightly
def test_tuning_does_not_choose_what_only_evades_the_judge() -> None:
    """The trap: neurons that break the word "I'm" ("I is a helpful AI, designed to ...").

    They are the largest contributions over the first five tokens of the answers. By the judge alone
    they take everything.
    """
    model = cna.load("smollm2")
    fit, choice = halves(TASK, 0)
    measured = Choice(
        model, TASK.judge, *choice, [],
        chat=None, max_new_tokens=40, batch_size=64, progress=False,
    )  # fmt: skip
    sides = [model.tokenize(side) for side in fit]
    said = [model.generate(side, 5, return_tokens=True, progress=False) for side in fit]
    best: Any = None
    for t in range(5):
        parts = model.core.contribution_parts(
            *[
                [p + a[:t] for p, a in zip(x, y, strict=True)]
                for x, y in zip(sides, said, strict=True)
            ]
        )
        score = parts.score(0.1)
        best = score if best is None else torch.maximum(best, score)
    trap = model.core.select(*parts.contrast, best, k=46, ranking="contribution")
    sound = cna.discover(model, *fit, ranking="contribution", progress=False)
    evades, removes = measured.measure(
        [cna.Intervention.scale(trap, [0.0]), cna.Intervention.scale(sound, [-0.5])], False
    )
    assert evades.rate == 0 and evades.broken <= 0.1
    assert evades.astray >= removes.astray + 0.2
    rows = pd.DataFrame([{"k": 46, **vars(x)} for x in (evades, removes)])
    assert within(rows, max_kl=1.0).iloc[0]["left"] == removes.left < evades.left


# --- the default model against plain hooks --------------------------------------------------------


@contextmanager
def hooked(hf: Any, hook: Any) -> Iterator[None]:
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, i=i: hook(i, args[0]))
        for i, layer in enumerate(hf.model.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_recordings_equal_plain_hooks_bit_for_bit(hf: Any) -> None:
    model, exact = cna.load("smollm2"), cna.load("smollm2", fuse=False)
    prompts = TASK.positive[:2] + TASK.negative[:2]
    rows: list[torch.Tensor] = []
    with hooked(hf, lambda _, x: rows.append(x[0, -1].clone())), torch.inference_mode():
        for ids in model.tokenize(prompts):
            hf(torch.tensor([ids]))
    plain = torch.stack(rows).reshape(len(prompts), 30, 1536)
    assert torch.equal(cna.record(exact, prompts, batch_size=1, share_prefix=False), plain)
    for other in (model, exact):
        assert (cna.record(other, prompts) - plain).abs().max() <= 1e-4 * plain.abs().max()


@pytest.mark.parametrize("multiplier", [1.0, 0.0])
def test_answers_are_those_of_transformers_with_plain_hooks(
    hf: Any, answers: pd.DataFrame, circuit: cna.Circuit, multiplier: float
) -> None:
    model = cna.load("smollm2")
    mine = answers_of(answers, SimpleNamespace(method="cna", strength=multiplier, draw=np.nan))
    settings = json.loads((RUN / "run.json").read_text("utf-8"))

    def scale(layer: int, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., [n.index for n in circuit if n.layer == layer]] *= multiplier
        return x

    for ids, answer in zip(model.tokenize(TASK.evaluation[:3]), mine.answer, strict=False):
        with hooked(hf, scale):
            whole = hf.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=settings["max_new_tokens"],
                do_sample=False,
            )
        told = model.tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True)
        assert told.strip() == answer.strip()
