"""The report: self-contained, complete, escaped, and clear about what is missing or broken."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
from cna import plots, report
from cna.tasks import Task
from conftest import PROMPTS

VOID = {"meta", "img", "br", "hr", "link", "input"}
BAD = "<script>alert(1)</script>"


class Checker(HTMLParser):
    """Counts tags, and fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(t == tag for t, _ in self.tags)


def parsed(path: Path) -> Checker:
    out = Checker()
    out.feed(path.read_text(encoding="utf-8"))
    assert not out.open
    return out


def table() -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for method, layer, points in (
        ("cna", None, [(0.0, 0.33, 0.97, 0.2), (1.0, 0.5, 0.98, 0.0)]),
        ("random", None, [(0.0, 0.5, 0.98, 0.02), (1.0, 0.5, 0.98, 0.0)]),
        ("caa", 12, [(-0.5, 0.02, 0.5, 1.9), (0.0, 0.5, 0.98, 0.0)]),
        ("caa", 20, [(-0.5, 0.04, 0.96, 0.5), (0.0, 0.5, 0.98, 0.0)]),
    ):
        for strength, rate, quality, kl in points:
            rows.append(
                {"method": method, "layer": layer, "strength": strength, "n": 48, "rate": rate}
                | {"rate_low": rate - 0.01, "rate_high": rate + 0.1, "quality": quality}
                | {"kl": kl, "p_value": np.nan if kl == 0 else 0.01}
            )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def answers() -> pd.DataFrame:
    rows = []
    for method, layer, strength in (
        ("cna", None, 1.0),
        ("cna", None, 0.0),
        ("caa", 20, -0.5),
        ("caa", 12, -0.5),
    ):
        for kind, count in (("evaluation", 12), ("benign", 2)):
            for i in range(count):
                text = ["NA", "", f"{BAD} {method} {i}"][min(i, 2)]
                rows.append(
                    {"method": method, "layer": layer, "strength": strength, "set": kind}
                    | {"index": i, "prompt": f"{kind} prompt {i} & co", "answer": text}
                    | {"hit": strength == 1.0 and kind == "evaluation", "quality": 1.0}
                )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


RUN = {
    "task": "capability-refusal",
    "model_id": "tiny <model>",
    "settings": {"fraction": 0.001, "max_new_tokens": 64},
    "versions": {"torch": "2.13.0"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    circuit = cna.Circuit(
        (8, 16), [cna.Neuron(7, j, 1.0 - j) for j in range(12)], {"prompt_hash": "abc123"}
    )
    circuit.save(tmp_path / "circuit.json")
    table().to_csv(tmp_path / "table.csv", index=False)
    answers().to_csv(tmp_path / "answers.csv", index=False)
    (tmp_path / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    (tmp_path / "figures").mkdir()
    plots.save(plots.layer_histogram(circuit), tmp_path / "figures" / "layer_histogram.png")
    plots.save(plots.dose_response(table()), tmp_path / "dose_response.png")
    return tmp_path


def test_the_page_needs_no_network_and_no_script(folder: Path):
    path = report.write_report(folder)
    assert path == folder / "report.html"
    page = parsed(path)
    html = path.read_text(encoding="utf-8")
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    assert not re.search(r"(?:src|href)=['\"](?!data:)", html)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    assert "@import" not in html and "url(" not in html
    assert html.startswith("<!doctype html>") and "width=device-width" in html
    assert "prefers-color-scheme:dark" in html and "@media print" in html


def test_the_page_holds_every_part(folder: Path):
    page = parsed(report.write_report(folder))
    for heading in (
        "Steering: capability-refusal",
        "The circuit",
        "Methods and strengths",
        "Figures",
        "Answers before and after",
        "What this does not show",
        "Settings and provenance",
    ):
        assert heading in page.text
    for fact in ("tiny <model>", "prompt_hash", "abc123", "versions.torch", "2.13.0", "128"):
        assert fact in page.text
    assert page.count("img") == 2
    assert page.count("article") == 8 + 2


def test_text_of_models_and_users_is_escaped(folder: Path):
    html = report.write_report(folder).read_text(encoding="utf-8")
    assert BAD not in html
    assert "&lt;script&gt;" in html
    assert "tiny &lt;model&gt;" in html


def test_answers_that_look_like_missing_values_stay_text(folder: Path):
    page = parsed(report.write_report(folder))
    assert "NA" in page.text
    assert "(empty answer)" in page.text
    assert not re.search(r"\bnan\b", page.text.lower())


def test_multipliers_and_coefficients_are_never_mixed_up(folder: Path):
    page = parsed(report.write_report(folder))
    assert "CNA circuit, multiplier 0" in page.text
    assert "CAA, layer 20, coefficient −0.5" in page.text
    assert "m = 0" in page.text and "c = −0.5" in page.text
    assert "m = −0.5" not in page.text


def test_the_caa_shown_keeps_its_text_and_the_page_says_how_it_was_picked(folder: Path):
    page = parsed(report.write_report(folder))
    assert "layer 12, coefficient" not in page.text  # lower rate, but its text fell apart
    assert "picked on these very prompts" in page.text


def test_limits_name_the_controls_that_are_missing(folder: Path):
    full = parsed(report.write_report(folder)).text
    assert "no random-neuron control" not in full and "no CAA baseline" not in full
    assert "rests on 48 answers" in full
    only = table()[lambda t: t["method"] == "cna"].drop(columns=["kl"])
    only.to_csv(folder / "table.csv", index=False)
    less = parsed(report.write_report(folder)).text
    for line in ("no random-neuron control", "no CAA baseline", "KL was not measured"):
        assert line in less


@pytest.mark.parametrize("gone", ["circuit.json", "table.csv", "answers.csv", "run.json"])
def test_each_part_may_be_missing(folder: Path, gone: str):
    (folder / gone).unlink()
    assert parsed(report.write_report(folder)).text


@pytest.mark.parametrize("kept", ["circuit.json", "table.csv", "answers.csv", "run.json"])
def test_one_part_is_enough(folder: Path, kept: str):
    for name in ("circuit.json", "table.csv", "answers.csv", "run.json", "dose_response.png"):
        if name != kept:
            (folder / name).unlink()
    (folder / "figures" / "layer_histogram.png").unlink()
    assert parsed(report.write_report(folder)).text


def by_layer(folder: Path, contributions: bool = True) -> None:
    """layers.csv of 8 layers: 10 of 12 neurons late by |delta|, 3 by contribution."""
    frame = pd.DataFrame({"layer": range(8), "delta_count": [0, 1, 0, 0, 1, 0, 2, 8]})
    frame["converted_count"] = [0, 1, 0, 2, 1, 2, 2, 4]
    frame["contribution_count"] = [2, 2, 2, 2, 1, 1, 1, 1]
    frame["delta_sum"], frame["converted_sum"], frame["contribution_sum"] = 2.0, 0.5, 0.25
    if not contributions:
        frame[[c for c in frame if c.startswith("con")]] = np.nan
    frame.to_csv(folder / "layers.csv", index=False)


def test_layers_by_delta_stand_beside_layers_by_contribution(folder: Path):
    by_layer(folder)
    (folder / "dose_response.png").unlink()
    (folder / "figures" / "layer_histogram.png").unlink()
    page = parsed(report.write_report(folder))
    assert "Layers by |delta| and by contribution" in page.text
    assert "10 of 12 neurons by |delta| (83 %)" in page.text
    assert "8 of 12 neurons by |delta| in the answer's units (67 %)" in page.text
    assert "3 of 12 neurons by contribution (25 %)" in page.text
    assert "partly a matter of units" in page.text
    assert [page.text.count(f"Neurons by {x}") for x in ("|delta|", "contribution")] == [2, 1]
    assert page.count("svg") == 1 + 3  # the circuit's own strip, and one for each ranking
    assert page.count("img") == 5 + 1
    assert "looked at by |delta| alone" not in page.text


def test_a_run_without_contributions_says_why_and_shows_delta(folder: Path):
    by_layer(folder, contributions=False)
    why = "contribution: expected a model that knows its write vectors, got 'x'"
    (folder / "run.json").write_text(json.dumps({**RUN, "layers_missing": why}), encoding="utf-8")
    page = parsed(report.write_report(folder))
    assert f"No contributions: {why}" in page.text
    assert "10 of 12 neurons by |delta| (83 %)" in page.text
    assert "neurons by contribution" not in page.text and "looked at by |delta| alone" in page.text
    (folder / "layers.csv").unlink()
    assert f"Not looked for: {why}" in parsed(report.write_report(folder)).text


def test_runs_of_older_versions_open_without_layers(folder: Path):
    page = parsed(report.write_report(folder))
    assert "Layers by |delta| and by contribution" not in page.text
    assert "looked at by |delta| alone" in page.text and page.count("svg") == 1


def test_figures_are_drawn_where_the_run_has_none(folder: Path):
    (folder / "dose_response.png").unlink()
    (folder / "figures" / "layer_histogram.png").unlink()
    assert parsed(report.write_report(folder)).count("img") == 5
    table().drop(columns=["kl", "quality"]).to_csv(folder / "table.csv", index=False)
    assert parsed(report.write_report(folder)).count("img") == 3


def test_a_report_repeats_byte_for_byte_and_leaves_no_other_file(folder: Path):
    before = {p.name for p in folder.iterdir()}
    first = report.write_report(folder).read_bytes()
    assert report.write_report(folder).read_bytes() == first
    assert {p.name for p in folder.iterdir()} == before | {"report.html"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("circuit.json", "", "empty file"),
        ("circuit.json", "{", "expected a circuit"),
        ("circuit.json", "[]", "expected a circuit"),
        ("table.csv", " \n", "empty file"),
        ("table.csv", "method,strength,rate\n", "header alone"),
        ("table.csv", "a,b\n1,2\n", "without method, strength, rate"),
        ("table.csv", "method,strength,rate\ncna,0,often\n", "numbers in the column rate"),
        ("table.csv", "method,strength,rate\ncna,0,1,2,3\ncna,0,1,2,3,4\n", "expected a CSV table"),
        ("answers.csv", "method,strength\ncna,0\n", "without prompt, answer"),
        ("layers.csv", "layer,delta_count\n0,1\n", "without converted_count, contribution_count"),
        ("run.json", "", "empty file"),
        ("run.json", "{'a': 1}", "JSON object"),
        ("run.json", "[1]", "JSON object"),
        ("figures/bad.png", "no image", "PNG image"),
    ],
)
def test_broken_parts_are_named_in_one_line(folder: Path, name: str, content: str, message: str):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        report.write_report(folder)
    text = str(caught.value)
    assert text.startswith("write_report: expected")
    assert Path(name).name in text and "\n" not in text
    assert not (folder / "report.html").exists()


def test_other_encodings_and_folders_are_refused(folder: Path, tmp_path: Path):
    (folder / "run.json").write_bytes(b'{"task": "\xff\xfe"}')
    with pytest.raises(ValueError, match="UTF-8"):
        report.write_report(folder)
    with pytest.raises(FileNotFoundError, match="run's folder"):
        report.write_report(tmp_path / "no")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="got none in"):
        report.write_report(tmp_path / "bare")


def test_a_row_without_numbers_leaves_dashes(folder: Path):
    frame = table()
    frame.loc[0, ["rate_low", "rate_high", "quality"]] = np.nan
    frame.to_csv(folder / "table.csv", index=False)
    assert "–" in parsed(report.write_report(folder)).text


def test_a_table_without_unsteered_rows_still_makes_a_page(folder: Path):
    table()[lambda t: t["kl"] > 0].to_csv(folder / "table.csv", index=False)
    assert "Methods and strengths" in parsed(report.write_report(folder)).text


def test_tables_whose_rates_are_all_missing_still_make_a_page(folder: Path):
    table().assign(rate=np.nan).to_csv(folder / "table.csv", index=False)
    assert "Methods and strengths" in parsed(report.write_report(folder)).text


def scored_answers() -> pd.DataFrame:
    """Answers as sweeps write them today, with outcomes, draws and the KL of benign ones."""
    frame = answers()
    frame["kind"] = frame["method"].map({"cna": "circuit", "caa": "vector"})
    frame.loc[(frame.method == "cna") & (frame.strength == 1), "kind"] = "model"
    frame["outcome"] = np.where(frame["hit"], "behaviour", "other")
    frame.loc[(frame.layer == 12).fillna(False), "outcome"] = "broken"
    frame["answer_kl"] = np.where(frame["set"] == "benign", 0.05, np.nan)
    frame["draw"] = pd.NA
    draws = [
        frame[(frame.kind == "model") & (frame["set"] == "evaluation")].assign(
            method="random", kind="random", strength=0.0, draw=d
        )
        for d in range(3)
    ]
    return pd.concat([frame, *draws], ignore_index=True)


def test_methods_are_compared_on_prompts_that_they_were_not_chosen_on(folder: Path):
    scored_answers().to_csv(folder / "answers.csv", index=False)
    frame = table().assign(kind=lambda t: t["method"].map({"caa": "vector"}).fillna("circuit"))
    frame = frame.rename(columns={"kl": "kl_evaluation"}).assign(kl_benign=0.05, draw=pd.NA)
    frame.loc[frame.method == "random", ["kind", "draw"]] = ["random", 0]
    frame.to_csv(folder / "table.csv", index=False)
    page = parsed(report.write_report(folder))
    assert "Comparisons" in page.text and "chosen on the prompts of even number" in page.text
    assert "CAA, layer 20, coefficient −0.5" in page.text  # layer 12 is broken
    assert "the numbers are those of the other half" in page.text
    assert "picked on these very prompts" not in page.text
    assert "draws of random neurons" in page.text and "p, Holm" in page.text
    assert "broken text" in page.text or "behaviour" in page.text


def test_a_page_of_broken_kinds_names_the_column(folder: Path):
    table().assign(kind="magic").to_csv(folder / "table.csv", index=False)
    with pytest.raises(ValueError, match="write_report: table: expected a kind of"):
        report.write_report(folder)


def test_a_run_with_cards_shows_what_its_neurons_do(
    tiny: cna.Model, circuit: cna.Circuit, tmp_path: Path
) -> None:
    circuit.save(tmp_path / "circuit.json")
    report.write_report(tmp_path)
    assert "What its neurons do" not in (tmp_path / "report.html").read_text()
    task = Task("t", "", PROMPTS[:4], PROMPTS[4:], ["x"], ["y"])
    texts = ["a <b>red</b> house", "two | birds"]
    cards = circuit.cards(tiny, texts, task=task, n=2, n_bootstrap=0, progress=False)
    cards.save(tmp_path)
    page = report.write_report(tmp_path).read_text()
    section = page[page.index("What its neurons do") :].split("</section>")[0]
    assert section.count("<tr") == 1 + min(10, len(circuit)) and "href='neurons.html'" in section
    assert f"{cards[0].numbers['effect_size']:.3g}" in section.replace("−", "-")
    assert "<b>red" not in section
    frame = pd.read_csv(tmp_path / "neurons.csv").drop(columns="raises")
    frame.to_csv(tmp_path / "neurons.csv", index=False)
    with pytest.raises(ValueError, match=r"expected the columns .* without raises; run again"):
        report.write_report(tmp_path)
