"""The paper's numbers are whole, and what is measured stands beside them under the right label."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cna
import numpy as np
import pandas as pd
import pytest
from cna.measure.quiz_score import quiz_accuracy
from cna.paper.layers import localise
from cna.prompts.quiz import draw_questions
from cna.reproduce import (
    authors_circuit,
    authors_layers,
    controls_table,
    jailbreak_task,
    layer_distance,
    main_reproduce,
    paper,
    paper_entry,
    quality_table,
    refusal_table,
    reproduce,
)
from conftest import PROMPTS, hf_record, make_hf, make_tokenizer
from contribution_oracle import contribution_parts

# Stand-ins for a user's own files: harmless, and only their layout matters.
ASKED = ["Wash my car", "Pay my bill", "Water my plants", "Ring the bell", "Cook my dinner"]
HARMLESS = ["Name a colour", "Count to three", "Say hello", "Spell sand", "Name a sea"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MMLU's layout: two subjects, of which every question counts."""
    folder = tmp_path_factory.mktemp("mmlu")
    for subject in ("sums", "seas"):
        lines = [f"{subject} {i}?,one,two,three,four,{'ABCD'[i % 4]}\n" for i in range(30)]
        (folder / f"{subject}_test.csv").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def quick(tiny: cna.Model, questions: Path) -> Any:
    return reproduce(tiny, quick=True, max_new_tokens=6, k=20, mmlu=questions, progress=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> cna.Model:
    folder = tmp_path_factory.mktemp("base") / "export"
    return cna.load(cna.export(make_hf("llama", seed=1), make_tokenizer(), folder, model_id="base"))


# --- what the paper says --------------------------------------------------------------------------


def test_the_paper_has_sixteen_models_with_a_partner_each() -> None:
    models = paper()["models"]
    assert len(models) == 16
    for name, entry in models.items():
        assert models[entry["other"]]["other"] == name
        assert entry["kind"] == ("instruct" if name.endswith("-Instruct") else "base")
        assert ("jailbreakbench" in entry) == (entry["kind"] == "instruct")
        assert {"baseline_rate", "cna_rate", "caa_rate"} <= set(entry["own_prompts"])


def test_logged_layer_counts_give_the_printed_shares() -> None:
    runs = 0
    for entry in paper()["models"].values():
        for task in entry.get("layers", {}).values():
            counts, n = task["log_counts"], entry["n_layers"]
            assert sum(counts.values()) == task["n_neurons"] == 200
            assert not {"0", "1"} & set(counts)
            late = sum(c for layer, c in counts.items() if int(layer) >= n - 3) / 200
            assert late == pytest.approx(task["last_three"])
            quarter = sum(c for layer, c in counts.items() if int(layer) >= n - n // 4) / 200
            assert quarter == pytest.approx(task.get("last_quarter", quarter))
            runs += 1
    assert runs == 12


def test_printed_overlaps_give_the_logged_jaccard() -> None:
    for entry in paper()["models"].values():
        for task in entry.get("overlap", {}).values():
            assert task["shared"] / 200 == pytest.approx(task["share_of_instruct"])
            assert task["shared"] / (400 - task["shared"]) == pytest.approx(
                task["log_jaccard"], abs=5e-5
            )


def test_printed_cna_quality_is_the_logged_unsteered_one() -> None:
    for entry in paper()["models"].values():
        logged = entry["log_quality"]["cna_by_multiplier"]
        assert logged["1"] == pytest.approx(entry["own_prompts"]["cna_quality"], abs=6e-4)
        assert logged["0"] != pytest.approx(entry["own_prompts"]["cna_quality"], abs=6e-4)


@pytest.mark.parametrize(
    ("model_id", "shape", "expected"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", (16, 8192), "Llama-3.2-1B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-8B", (32, 14336), "Llama-3.1-8B"),
        ("Qwen/Qwen2.5-3B-Instruct", (36, 11008), "Qwen2.5-3B-Instruct"),
        ("Qwen/Qwen2.5-3B-Instruct", (4, 64), None),
        ("SmolLM2-135M-Instruct", (30, 1536), None),
    ],
)
def test_a_model_is_known_by_name_and_shape(
    model_id: str, shape: tuple[int, int], expected: str | None
) -> None:
    model: Any = SimpleNamespace(model_id=model_id, n_layers=shape[0], width=shape[1])
    assert paper_entry(model)[0] == expected


# --- tables ---------------------------------------------------------------------------------------


def sweep_table() -> pd.DataFrame:
    rows = [
        ("cna", None, 1.0, 0.0, 0.8),
        ("cna", None, 0.0, 1.0, 0.2),
        ("cna", None, 0.5, 0.5, 0.5),
        ("random-0", None, 0.0, 1.0, 0.7),
        ("caa-mlp", None, 1.0, 1.0, 0.9),
        ("caa-mlp", None, -0.5, -0.5, 0.1),
        ("caa", 2, -0.5, -0.5, 0.3),
    ]
    table = pd.DataFrame(rows, columns=["method", "layer", "strength", "alpha", "rate"])
    table["layer"] = table["layer"].astype("Int64")
    extra = ["rate_low", "rate_high", "quality", "quality_low", "quality_high", "composite"]
    for column in [*extra, "p_value"]:
        table[column] = 0.5
    table["n"] = 10
    return table


def test_refusal_table_keeps_paper_and_measured_apart() -> None:
    entry = paper()["models"]["Llama-3.2-1B-Instruct"]
    out = refusal_table(sweep_table(), entry).set_index("measure")
    assert list(out["measured"]) == pytest.approx([0.8, 0.2, -0.6, -0.75])
    assert list(out["paper_jailbreakbench"]) == pytest.approx([0.90, 0.34, -0.56, -0.622], abs=1e-3)
    assert out["paper_own_prompts"].iloc[0] == 0.434
    assert list(out["multiplier"].iloc[:2]) == [1, 0]
    assert list(out["alpha"].iloc[:2]) == [0, 1]
    empty = refusal_table(sweep_table(), {})
    assert empty.filter(regex="^(paper|log)_").isna().all(axis=None)


def test_quality_table_labels_m_and_alpha_and_reads_logs_by_the_right_one() -> None:
    entry = paper()["models"]["Qwen2.5-3B-Instruct"]
    out = quality_table(sweep_table(), entry)
    assert list(out["method"]) == ["cna", "cna", "cna", "caa-mlp", "caa-mlp", "caa"]
    neurons = out[out.method == "cna"]
    assert list(neurons["alpha"]) == [0.0, 0.5, 1.0]
    assert (neurons["multiplier"] == 1 - neurons["alpha"]).all()
    assert list(neurons["log_rate"]) == [0.929, 0.364, 0.273]
    assert list(neurons["log_quality"]) == [0.9841, 0.9787, 0.9786]
    assert list(neurons["paper_rate"].iloc[[0, 2]]) == [0.929, 0.343]
    vectors = out[out.method == "caa-mlp"]
    assert vectors["multiplier"].isna().all()
    assert list(vectors["log_rate"]) == [0.0, 0.0]  # at -0.5 and at +1
    assert list(vectors["paper_rate"].isna()) == [True, False]
    assert out[out.method == "caa"].filter(regex="^(paper|log)_").isna().all(axis=None)


def test_controls_table_has_the_model_the_circuit_and_the_draws() -> None:
    out = controls_table(sweep_table(), {})
    assert list(out["neurons"]) == ["none", "circuit", "random-0"]
    assert list(out["rate"]) == [0.8, 0.2, 0.7]


def test_layer_distance_is_the_share_of_moved_neurons() -> None:
    assert layer_distance([0, 5, 5], [0, 5, 5]) == 0
    assert layer_distance([10, 0, 0], [0, 5, 5]) == 1
    assert layer_distance([4, 6], [5, 5]) == pytest.approx(0.1)
    assert math.isnan(layer_distance([math.nan] * 2, [5, 5]))


# --- the authors' options -------------------------------------------------------------------------


def test_authors_circuit_is_the_top_k_of_the_later_layers(tiny: cna.Model, tiny_hf: Any) -> None:
    sides = [hf_record(tiny_hf, tiny.tokenize(p)) for p in (PROMPTS[:4], PROMPTS[4:])]
    delta = sides[0].astype(np.float64).mean(0) - sides[1].astype(np.float64).mean(0)
    delta[:2] = 0
    places = np.argsort(-np.abs(delta).ravel(), kind="stable")[:20]
    expected = [divmod(int(p), tiny.width) for p in places]
    circuit = authors_circuit(tiny, PROMPTS[:4], PROMPTS[4:], k=20)
    assert [(n.layer, n.index) for n in circuit.neurons] == expected
    assert circuit.layer_counts[:2] == [0, 0]
    assert len(circuit.universal_removed) == 0
    assert circuit.provenance["skipped_layers"] == [0, 1]


def test_by_contribution_the_same_layers_are_left_out(tiny: cna.Model, tiny_hf: Any) -> None:
    sides = tiny.tokenize(PROMPTS[:4]), tiny.tokenize(PROMPTS[4:])
    parts = contribution_parts(tiny_hf, "llama", sides)
    found = authors_layers(tiny, PROMPTS[:4], PROMPTS[4:], k=20)
    assert found.by_delta == authors_circuit(tiny, PROMPTS[:4], PROMPTS[4:], k=20)
    for circuit, grid in (
        (found.by_contribution, np.maximum(parts.score(0.1), 0)),
        (found.by_converted, np.abs(parts.delta * parts.along)),
    ):
        assert circuit is not None
        np.testing.assert_array_equal(circuit.layer_counts[:2], 0)
        later = np.concatenate([np.zeros_like(grid[:2]), grid[2:]])
        best = np.argsort(-later.ravel(), kind="stable")[:20]
        assert {(n.layer, n.index) for n in circuit} == {divmod(int(p), tiny.width) for p in best}
        assert len(circuit.universal_removed) == 0
        assert circuit.provenance["skipped_layers"] == [0, 1]
    np.testing.assert_allclose(found.delta_sum, np.abs(parts.delta).sum(1), rtol=1e-3)


def test_authors_circuit_takes_no_more_than_there_is(tiny: cna.Model) -> None:
    assert len(authors_circuit(tiny, PROMPTS[:4], PROMPTS[4:], k=9999)) == 2 * tiny.width


# --- the whole ------------------------------------------------------------------------------------


def test_a_model_that_is_not_in_the_paper_says_so(quick: Any) -> None:
    assert quick.paper_model is None
    parts = {"refusal", "quality", "controls", "mmlu", "examples", "layers", "layer_counts"}
    assert set(quick.tables) == parts
    for table in quick.tables.values():
        assert table.filter(regex="^(paper|log)_").isna().all(axis=None)
    assert "not a model of the paper" in str(quick)
    assert "not a model of the paper" in quick._repr_html_()


def test_measured_numbers_are_those_of_the_sweep(quick: Any) -> None:
    table = quick.sweep.table
    off = table[(table.method == "cna") & (table.strength == 0)].iloc[0]
    refusal = quick.tables["refusal"].set_index("measure")
    assert refusal.loc["rate, circuit off", "measured"] == off.rate
    quality = quick.tables["quality"]
    assert set(quality["method"]) == {"cna", "caa-mlp", "caa"}
    assert list(quality.loc[quality.method == "cna", "alpha"]) == [0, 0.25, 0.5, 0.75, 1]
    layers = quick.tables["layers"].set_index("task")
    counts = quick.tables["layer_counts"]
    for task in ("refusal", "capitals", "subject-verb"):
        mine = counts[counts.task == task]["count"].to_numpy()
        assert mine.sum() == layers.loc[task, "n_neurons"] == 20
        assert layers.loc[task, "last_three"] == pytest.approx(mine[-3:].sum() / 20)
        assert layers.loc[task, "last_quarter"] == pytest.approx(mine[-1:].sum() / 20)
        for name in ("converted", "contribution"):
            other = counts[counts.task == task][f"{name}_count"].to_numpy()
            circuit = quick.circuits[f"model-{task}-{name}"]
            assert other.tolist() == circuit.layer_counts and other.sum() == 20
            share = layers.loc[task, f"{name}_last_three"]
            assert share == pytest.approx(other[-3:].sum() / 20)
            assert (counts[counts.task == task][f"{name}_sum"] > 0).all()
    assert any("partly a matter of units" in note for note in quick.notes)
    assert not any("No contributions" in note for note in quick.notes)


def test_questions_of_all_subjects_are_answered_at_every_alpha(
    quick: Any, tiny: cna.Model, questions: Path
) -> None:
    table = quick.tables["mmlu"]
    assert list(table.loc[table.method == "cna", "alpha"]) == [0, 0.25, 0.5, 0.75, 1]
    assert {"caa-mlp", "caa"} <= set(table.method)
    drawn = draw_questions(cna.prompts.read_quiz(questions), 40, 0)
    assert {q.subject for q in drawn} == {"sums", "seas"} and len(drawn) == 40
    off = cna.Intervention.scale(quick.circuits["behaviour"], [0.0])
    right = quiz_accuracy(tiny, off, drawn, by="letter").double().mean()
    row = table[(table.method == "cna") & (table.alpha == 1)].iloc[0]
    assert row.accuracy == pytest.approx(float(right))
    plain = float(quiz_accuracy(tiny, None, drawn, by="letter").double().mean())
    assert row.change == pytest.approx(float(right) - plain)
    with pytest.raises(ValueError, match="accuracy_by_alpha: expected rows with"):
        cna.plots.accuracy_by_alpha(quick.tables["quality"])


def test_one_prompt_is_answered_at_three_strengths_by_both_models(
    tiny: cna.Model, base: cna.Model
) -> None:
    result = reproduce(tiny, base, ["examples"], max_new_tokens=5, progress=False)
    table = result.tables["examples"]
    assert list(table.model) == ["instruct"] * 3 + ["base"] * 3
    assert list(table.multiplier) == [1, 0, 2] * 2 and table.paper_answer.isna().all()
    prompt = cna.tasks.load("capability-refusal").evaluation[:1]
    with tiny.steer(result.circuits["behaviour"], 0.0):
        assert tiny.generate(prompt, 5) == [table.answer[1]]
    assert base.generate(prompt, 5, chat=False) == [table.answer[3]]
    said = {
        name: entry["answers"] for name, entry in paper()["models"].items() if "answers" in entry
    }
    assert {len(x) for x in said.values()} == {3} and len(said) == 4


def test_layers_stand_beside_the_log_layer_by_layer(tiny: cna.Model) -> None:
    task, k = cna.tasks.load("capability-refusal"), 20
    entry = {"layers": {"refusal": {"log_counts": {"2": 5, "3": 15}}}}
    tables, _, _ = localise(tiny, None, entry, {"refusal": task}, k)
    counts, (row,) = tables["layer_counts"], tables["layers"].to_dict("records")
    mine = counts["count"].to_numpy()
    want = np.abs(np.array([0, 0, 5, 15]) - mine) / k / 2
    np.testing.assert_allclose(counts.log_distance, want)
    assert row["log_distance"] == pytest.approx(want.sum())
    figure = cna.plots.layers_by_ranking(counts.rename(columns={"count": "delta_count"}))
    (dots,) = [x for x in figure.axes[0].lines if "authors' log" in str(x.get_label())]
    assert list(dots.get_ydata()) == [0, 0, 5, 15]


def test_a_saved_reproduction_is_whole(quick: Any, tmp_path: Path) -> None:
    out = quick.save(tmp_path / "run")
    for name, table in quick.tables.items():
        assert len(pd.read_csv(out / f"{name}.csv")) == len(table)
    about = json.loads((out / "reproduction.json").read_text())
    assert about["paper_model"] is None
    assert about["settings"]["k"] == 20
    page = (out / "reproduction.html").read_text()
    assert page.startswith("<!doctype html>")
    figures = {p.name for p in (out / "figures").iterdir()}
    tasks = ("refusal", "capitals", "subject-verb")
    assert figures == {
        "strengths.png",
        "quality.png",
        "accuracy.png",
        *(f"layers-model-{task}.png" for task in tasks),
    }
    assert page.count("src='data:image/png;base64,") == 6
    assert len(pd.read_csv(out / "answers.csv")) == len(quick.sweep.answers)
    assert len(cna.Circuit.load(out / "circuits" / "behaviour.json")) == len(
        quick.circuits["behaviour"]
    )


def test_overlap_of_a_model_with_itself_and_with_another(tiny: cna.Model, base: cna.Model) -> None:
    result = reproduce(tiny, base=base, parts=["overlap"], k=20, progress=False)
    assert list(result.tables) == ["overlap"]
    table = result.tables["overlap"].set_index("task")
    for task in table.index:
        a, b = result.circuits[f"base-{task}"], result.circuits[f"instruct-{task}"]
        assert table.loc[task, "shared"] == len(a & b)
        a, b = (result.circuits[f"{x}-{task}-contribution"] for x in ("base", "instruct"))
        assert table.loc[task, "contribution_shared"] == len(a & b)
        assert table.loc[task, "contribution_jaccard"] == pytest.approx(len(a & b) / len(a | b))
    raw_text = {"subject-verb": cna.tasks.load("subject-verb")}
    same = reproduce(tiny, tiny, ["overlap", "layers"], k=20, layer_tasks=raw_text, progress=False)
    raw = same.tables["overlap"].set_index("task")
    assert raw.loc["subject-verb", "share_of_instruct"] == 1  # this task is raw text for both
    assert set(same.tables["layers"]["model"]) == {"base", "instruct"}


def test_a_model_that_does_not_know_its_weights_is_measured_by_delta_alone(
    tiny: cna.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cna.hosts.live.readout_of", lambda *_: None)
    blind = cna.live(make_hf(), make_tokenizer(), model_id="blind")
    result = reproduce(blind, base=tiny, parts=["layers", "overlap"], k=20, progress=False)
    (line,) = [note for note in result.notes if note.startswith("No contributions")]
    assert line.startswith("No contributions of the instruct: contribution: expected a model that")
    assert "\n" not in line and line in str(result) and "got 'blind'" in line
    layers = result.tables["layers"].set_index("model")
    assert layers.loc["instruct", "contribution_last_three"].isna().all()
    assert layers.loc["base", "contribution_last_three"].notna().all()
    assert layers["last_three"].notna().all()
    assert result.tables["overlap"]["contribution_shared"].isna().all()
    assert "instruct-refusal-contribution" not in result.circuits
    saved = result.save(tmp_path / "run")
    assert (saved / "figures" / "layers-instruct-refusal.png").exists()


def test_users_mistakes_are_named(tiny: cna.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected parts among"):
        reproduce(tiny, parts=["everything"])
    with pytest.raises(ValueError, match="expected a base model for 'overlap'"):
        reproduce(tiny, parts=["overlap"])
    with pytest.raises(ValueError, match="expected questions for 'mmlu', got none"):
        reproduce(tiny, parts=["mmlu"])
    with pytest.raises(FileNotFoundError, match="read_quiz"):
        reproduce(tiny, mmlu=tmp_path / "none")
    with pytest.raises(ValueError, match="pass both"):
        main_reproduce("smollm2", tmp_path, jbb="harmful.csv")


def test_own_files_are_split_so_that_no_prompt_is_measured_and_used(tmp_path: Path) -> None:
    goals = "Index,Goal,Category\n" + "".join(f"{i},{p},x\n" for i, p in enumerate(ASKED))
    (tmp_path / "goals.csv").write_text(goals)
    (tmp_path / "benign.csv").write_text("prompt\n" + "\n".join(HARMLESS) + "\n")
    task = jailbreak_task(tmp_path / "goals.csv", tmp_path / "benign.csv")
    assert task.positive == ASKED[0::2]
    assert task.evaluation == ASKED[1::2]
    assert task.negative == HARMLESS[0::2]
    assert task.benign == HARMLESS[1::2]
    assert task.judge.name == "refusal-13"
    (tmp_path / "other.txt").write_text("Sweep the floor\nFeed the cat\n")
    whole = jailbreak_task(tmp_path / "goals.csv", tmp_path / "benign.csv", tmp_path / "other.txt")
    assert whole.evaluation == ASKED
    with pytest.raises(ValueError, match="expected discovery and evaluation prompts to differ"):
        jailbreak_task(tmp_path / "goals.csv", tmp_path / "benign.csv", tmp_path / "goals.csv")


def test_the_command_writes_a_folder_and_prints_the_tables(
    exports: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "goals.csv").write_text("Goal\n" + "\n".join(ASKED) + "\n")
    (tmp_path / "benign.csv").write_text("prompt\n" + "\n".join(HARMLESS) + "\n")
    code = main_reproduce(
        str(exports("llama")),
        tmp_path / "run",
        quick=True,
        jbb=tmp_path / "goals.csv",
        benign=tmp_path / "benign.csv",
    )
    assert code == 0
    printed = capsys.readouterr().out
    assert "Where the circuits sit" in printed
    assert (tmp_path / "run" / "reproduction.html").exists()


def test_the_shell_chooses_parts_sizes_and_prompts(exports: Any, tmp_path: Path) -> None:
    import json

    from cna.cli import main

    (tmp_path / "goals.csv").write_text("Goal\n" + "\n".join(ASKED) + "\n")
    (tmp_path / "benign.csv").write_text("prompt\n" + "\n".join(HARMLESS) + "\n")
    (tmp_path / "other.txt").write_text("Sweep the floor\nFeed the cat\nOpen the door\n")
    words = ["reproduce", "-m", str(exports("llama")), "--parts", "layers", "--k", "9", "--quick"]
    words += ["--jbb", str(tmp_path / "goals.csv"), "--benign", str(tmp_path / "benign.csv")]
    words += ["--discovery", str(tmp_path / "other.txt"), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    said = json.loads((tmp_path / "run" / "reproduction.json").read_text())
    assert said["settings"]["parts"] == ["layers"] and said["settings"]["k"] == 9
    found = {path.stem for path in (tmp_path / "run").glob("*.csv")}
    assert found == {"layers", "layer_counts"}
    assert main([*words[:4], "layers,everything", "--out", str(tmp_path / "no")]) == 2
    assert main(["reproduce", "-m", "x", "--discovery", "y"]) == 2
