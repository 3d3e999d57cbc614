"""The command line: each command does its job, and bad input ends with one line and code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cna
import pandas as pd
import pytest
import torch
from cna.circuits.operation import save_steering
from cna.cli import build_parser, main
from cna.cli.common import join_numbers
from cna.cli.shell import COMMANDS
from cna.convert import load_control_vector
from conftest import PROMPTS, make_hf, make_tokenizer


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "pos.txt").write_text("\n".join(PROMPTS[:4]) + "\n\n")
    (tmp_path / "neg.csv").write_text("prompt\n" + "\n".join(f'"{p}"' for p in PROMPTS[4:]))
    lines = [json.dumps({"prompt": p}) for p in PROMPTS[:2]]
    (tmp_path / "ask.jsonl").write_text("\n".join(lines))
    return {n: str(tmp_path / n) for n in ("pos.txt", "neg.csv", "ask.jsonl", "c.json")}


def discover(exports: Any, files: dict[str, str], *more: str) -> int:
    arguments = ["discover", "-m", str(exports("llama")), "--positive", files["pos.txt"]]
    arguments += ["--negative", files["neg.csv"], "-o", files["c.json"], "--universal", "none"]
    return main([*arguments, *more])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = [x for x in capsys.readouterr().err.splitlines() if x.strip()]
    assert len(err) == 1 and err[0].startswith("cna "), err
    return err[0]


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What --help prints, in one line, however the terminal breaks it."""
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_tells_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = (a.choices for a in build_parser()._actions if a.dest == "command")
    assert commands is not None and set(commands) == set(COMMANDS)
    first = help_of([], capsys)
    silent = []
    for name, parser in commands.items():
        assert parser.description and f"{name} {parser.description}" in first, name
        text = help_of([name], capsys)
        assert text.startswith(f"usage: cna {name} ") and parser.description in text
        for action in parser._actions:
            # argparse breaks lines behind hyphens too.
            if not action.help or "".join(action.help.split()) not in text.replace(" ", ""):
                silent.append((name, action.dest))
            if len(action.help.split()) < 3:  # a name again is no explanation
                silent.append((name, action.dest))
    assert silent == []


def test_discover_writes_the_circuit_of_the_api(
    exports: Any, tiny: cna.Model, files: dict[str, str]
) -> None:
    assert discover(exports, files, "--k", "7") == 0
    circuit = cna.Circuit.load(files["c.json"])
    expected = cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=7, universal=None)
    assert circuit.neurons == expected.neurons


def test_discover_takes_rankings_sides_and_layers(
    exports: Any, tiny: cna.Model, files: dict[str, str]
) -> None:
    for more, options in (
        (["--ranking", "contribution", "--penalty", "0.3"], {"penalty": 0.3}),
        (["--ranking", "direction", "--direction-layer", "1"], {"direction_layer": 1}),
        (["--ranking", "residual", "--side", "positive"], {"side": "positive"}),
        (["--ranking", "mean_difference", "--layers", "1,2"], {"layers": (1, 2)}),
    ):
        assert discover(exports, files, "--k", "7", *more) == 0
        expected = cna.discover(
            tiny, PROMPTS[:4], PROMPTS[4:], k=7, universal=None, ranking=more[1], **options
        )
        circuit = cna.Circuit.load(files["c.json"])
        assert circuit.neurons == expected.neurons, more
        assert circuit.provenance["ranking"] == more[1]


def test_a_resumed_discovery_keeps_sides_and_layers(
    exports: Any, tiny: cna.Model, files: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    """The chunked way takes the same options, or says that it does not."""
    more = ["--k", "7", "--layers", "1,2", "--side", "positive", "--resume", str(tmp_path / "kept")]
    assert discover(exports, files, *more) == 0
    expected = cna.discover(
        tiny, PROMPTS[:4], PROMPTS[4:], k=7, universal=None, side="positive", layers=(1, 2)
    )
    circuit = cna.Circuit.load(files["c.json"])
    assert {(n.layer, n.index) for n in circuit} == {(n.layer, n.index) for n in expected}
    assert circuit.provenance["layers"] == [1, 2]
    capsys.readouterr()
    weighted = ["--k", "7", "--ranking", "contribution", "--resume", str(tmp_path / "kept")]
    assert discover(exports, files, *weighted) == 2
    assert "expected ranking 'mean_difference' or 'effect_size'" in one_line(capsys)


@pytest.mark.parametrize(("name", "strength"), [("scale", -1.0), ("shift", 2.0)])
def test_a_run_folder_is_taken_as_it_is(
    name: str,
    strength: float,
    exports: Any,
    tiny: cna.Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`generate`, `sweep` and `convert` know operation and strength from the folder."""
    circuit = cna.discover(tiny, PROMPTS[:4], PROMPTS[4:], k=7, universal=None, layers=(1, 3))
    run = tmp_path / "run"
    run.mkdir()
    save_steering(cna.Operation(circuit, name), strength, run)
    model = ["-m", str(exports("llama"))]
    capsys.readouterr()
    asked = ["--max-new-tokens", "6", "--json", *PROMPTS[:2]]
    assert main(["generate", *model, "-c", str(run), *asked]) == 0
    rows = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    with tiny.steer(cna.Operation(circuit, name), strength):
        expected = tiny.generate(PROMPTS[:2], max_new_tokens=6, progress=False)
    assert [r["answer"] for r in rows] == expected
    swept = ["--baselines", "", "--quiz-questions", "0", "--max-new-tokens", "3"]
    swept += ["--max-prompts", "2", "-o", str(tmp_path / "swept")]
    assert main(["sweep", *model, "-c", str(run), "--multipliers", "1", *swept]) == 0
    table = pd.read_csv(tmp_path / "swept" / "table.csv")
    (tuned,) = table[table["method"] == "tuned"].itertuples()
    assert (tuned.kind, tuned.strength) == ("circuit" if name == "scale" else name, strength)
    capsys.readouterr()
    to = str(tmp_path / "file")
    if name == "scale":
        hf = tmp_path / "hf"
        make_hf("llama").save_pretrained(hf)
        assert main(["convert", str(run), "--source", str(hf), "--out", to]) == 0
        mark = json.loads((tmp_path / "file" / "cna_conversion.json").read_text())
        assert mark["multiplier"] == strength
    else:
        vector = ["--format", "control-vector", "--source", str(exports("llama"))]
        assert main(["convert", str(run), *vector, "--out", to]) == 0
        written = tiny.core.difference_written(circuit)
        vectors = load_control_vector(to)
        assert sorted(vectors) == sorted(written)
        for layer, vector in vectors.items():
            assert torch.allclose(vector.double(), -written[layer], atol=1e-6)
        assert main(["convert", str(run), "--out", to + "2"]) == 2
        assert "expected format='control-vector' for a shift" in one_line(capsys)


def test_generate_steers(
    exports: Any, tiny: cna.Model, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    discover(exports, files, "--k", "7")
    capsys.readouterr()
    arguments = ["generate", "-m", str(exports("llama")), "--prompts", files["ask.jsonl"]]
    arguments += ["-c", files["c.json"], "--multiplier", "-1", "--max-new-tokens", "6", "--json"]
    assert main(arguments) == 0
    rows = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    with tiny.steer(cna.Circuit.load(files["c.json"]), -1.0):
        expected = tiny.generate(PROMPTS[:2], max_new_tokens=6)
    assert [r["answer"] for r in rows] == expected


def test_a_system_message_and_template_arguments_reach_the_prompts(
    exports: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(exports("llama"), tmp_path / "m")
    template = (
        "{{ day }}|{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    (folder / "chat_template.jinja").write_text(template)
    told = ["--system", "Be brief.", "--template-kwargs", '{"day": "1 May"}', "--json"]
    how = ["--max-new-tokens", "5", "--device", "auto", "--dtype", "auto"]
    assert main(["generate", "Hi", "--model", str(folder), *told, *how]) == 0
    text = "1 May|<system>Be brief.<user>Hi<assistant>"
    plain = cna.load(exports("llama"))
    ids = plain.tokenizer(text, add_special_tokens=False)["input_ids"]
    said = json.loads(capsys.readouterr().out)["answer"]
    assert said == plain.generate([list(ids)], 5)[0]


def test_compare_prints_the_overlap(
    exports: Any, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    discover(exports, files, "--k", "7")
    assert (
        main(["compare", files["c.json"], files["c.json"], "--plot", str(tmp_path / "o.png")]) == 0
    )
    assert "shared 7, Jaccard 1.0000" in capsys.readouterr().out
    assert (tmp_path / "o.png").stat().st_size > 1000


def test_export_and_sweep(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    hf = tmp_path / "hf"
    make_hf("llama").save_pretrained(hf)
    make_tokenizer().save_pretrained(hf)
    assert main(["export", "-m", str(hf), "-o", str(tmp_path / "exported")]) == 0
    user = tmp_path / "task"
    user.mkdir()
    for name, rows in (
        ("positive", PROMPTS[:4]),
        ("negative", PROMPTS[4:]),
        ("evaluation", ["Go."]),
    ):
        (user / f"{name}.txt").write_text("\n".join(rows))
    arguments = ["sweep", "-m", str(tmp_path / "exported"), "--task", str(user), "--baselines", ""]
    arguments += ["--multipliers", "0,1", "--max-new-tokens", "3", "--quiz-questions", "2"]
    assert main([*arguments, "-o", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/report.html").exists()
    (tmp_path / "run/report.html").unlink()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["discover", "-m", "/no/such", "--task", "capitals"],
        ["discover", "--positive", "only.txt"],
        ["discover", "--task", "no-such-task"],
        ["discover", "--positive", "/no/such.txt", "--negative", "/no/such.txt"],
        ["generate", "-m", "/no/such", "hello"],
        ["generate", "-c", "/no/such.json", "hello"],
        ["sweep", "--task", "no-such-task"],
        ["compare", "/no/a.json", "/no/b.json"],
        ["report", "/no/such/folder"],
        ["export", "-m", "/no/such/model", "-o", "/tmp/x"],
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    one_line(capsys)


def test_an_empty_prompt_file_is_one_line_and_code_2(
    tmp_path: Path, exports: Any, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files["pos.txt"]).write_text("")
    assert discover(exports, files) == 2
    assert "pos.txt" in one_line(capsys)


def test_no_command_prints_help() -> None:
    assert main([]) == 2
    assert build_parser().prog == "cna"


def test_a_missing_folder_is_made_before_the_work(
    exports: Any, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files["c.json"] = str(tmp_path / "new" / "folder" / "c.json")
    assert discover(exports, files, "--k", "3") == 0
    assert len(cna.Circuit.load(files["c.json"])) == 3
    capsys.readouterr()
    files["c.json"] = str(tmp_path / "pos.txt" / "c.json")
    assert discover(exports, files, "--k", "3") == 2
    assert "discover: expected to write" in one_line(capsys)


def test_convert_writes_caa_vectors_of_a_task(exports: Any, tmp_path: Path) -> None:
    out = tmp_path / "v.gguf"
    arguments = ["convert", "capitals", "--format", "control-vector", "--layers", "1,3"]
    assert main([*arguments, "--source", str(exports("llama")), "--out", str(out)]) == 0
    vectors = load_control_vector(out)
    task = cna.tasks.load("capitals")
    expected = cna.caa(cna.load(exports("llama")), task.positive, task.negative, chat=task.chat)
    assert sorted(vectors) == [1, 3]
    for layer, vector in vectors.items():
        assert torch.allclose(vector, expected.vectors[layer].float(), atol=1e-6)


def test_a_closed_pipe_ends_quietly(exports: Any) -> None:
    ask = [sys.executable, "-m", "cna", "generate", "-m", str(exports("llama")), *PROMPTS]
    child = subprocess.Popen(
        [*ask, "--max-new-tokens", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    errors = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(120) == 0
    assert "Broken" not in errors and "Traceback" not in errors, errors


@pytest.mark.parametrize(
    "words",
    [
        ["--multipliers", "-1,0,1"],
        ["--multipliers=-1,0,1"],
        ["--multipliers", "-1", "0", "1"],
        ["--multipliers", "-1", "0,1"],
        ["--multipliers", "-1.0,0,1e0"],
    ],
)
def test_numbers_with_a_leading_minus_are_numbers(words: list[str]) -> None:
    parsed = build_parser().parse_args(join_numbers(["sweep", *words, "--out", "x"]))
    assert parsed.multipliers == [-1.0, 0.0, 1.0] and parsed.out == "x"
    parsed = build_parser().parse_args(join_numbers(["sweep", "--coefficients", "-.5", "-1e-1"]))
    assert parsed.coefficients == [-0.5, -0.1]
    parsed = build_parser().parse_args(join_numbers(["sweep", "--biases", "-1,-0.5"]))
    assert parsed.biases == [-1.0, -0.5]
    words = ["generate", "--multiplier", "-1e-3", "7"]
    parsed = build_parser().parse_args(join_numbers(words))
    assert parsed.multiplier == -0.001 and parsed.prompt == ["7"]
    assert join_numbers(["generate", "--max-new-tokens", "3", "9"])[-2:] == ["3", "9"]


def run_cna(*words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cna", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | env,
        capture_output=True,
    )


def test_a_console_that_is_not_utf8_ends_no_command(exports: Any, tmp_path: Path) -> None:
    """Bars of layers, answers and progress hold characters that ASCII and Latin 1 lack."""
    folder = str(exports("llama"))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\nfour\n")
    words = ["discover", "-m", folder, "--positive", str(tmp_path / "a.txt"), "--negative"]
    words += [str(tmp_path / "b.txt"), "--universal", "none", "-o", str(tmp_path / "c.json")]
    done = run_cna(*words, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr.decode()
    assert b"wrote " in done.stdout and b"layer" in done.stdout
    words = ["generate", "-m", folder, "--json", "--max-new-tokens", "12", "\u2588 caf\u00e9"]
    done = run_cna(*words, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["prompt"] == "\u2588 caf\u00e9"  # nothing is lost in JSON


def test_a_log_holds_no_bars(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from cna.base import progress

    real = progress.tqdm

    def now(**options: Any) -> Any:
        return real(**{**options, "delay": 0, "mininterval": 0})

    monkeypatch.setattr(progress, "tqdm", now)
    with progress.bar("work", True) as update:
        assert update is not None
        for i in range(5):
            update(i + 1, 5)
    assert capsys.readouterr().err == ""


def test_bars_can_be_left_out_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from cna.base import progress

    monkeypatch.setenv("CNA_PROGRESS", "0")
    with progress.bar("work", True) as update:
        assert update is None


def test_notes_go_through_logging(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from cna.base.log import LOG, note

    note("a thing")
    assert capsys.readouterr().err == "cna: a thing\n"
    level = LOG.level
    LOG.setLevel(logging.WARNING)
    note("a thing")
    LOG.setLevel(level)
    assert capsys.readouterr().err == ""


def test_generate_without_a_prompt_says_so_before_it_loads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["generate", "-m", "org/nothing"]) == 2
    assert "expected a prompt or --prompts" in one_line(capsys)
