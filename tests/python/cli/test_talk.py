"""`cna chat` in a pseudo-terminal with keys sent, and what its lines do."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import cna
import pexpect
import pytest
from cna.cli.chat import Talk
from conftest import PROMPTS


@pytest.fixture
def saved(circuit: cna.Circuit, tmp_path: Path) -> Path:
    circuit.save(tmp_path / "c.json")
    return tmp_path / "c.json"


def talk_of(model: cna.Model) -> tuple[Talk, Any]:
    written: list[str] = []
    talk = Talk(model, written.append, {"max_new_tokens": 6})

    def said(line: str) -> str:
        written.clear()
        talk.take(line)
        return "".join(written)

    return talk, said


def test_keys_in_a_terminal(exports: Any, saved: Path, tiny: cna.Model) -> None:
    words = ["-m", "cna", "chat", "-m", str(exports("llama")), "--max-new-tokens", "6"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
    shell = pexpect.spawn(
        sys.executable,
        words,
        env=env,
        encoding="utf-8",
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # test workers ignore it
    )
    shell.delaybeforesend = None
    shell.expect("no circuit: /circuit FILE; /help for commands")
    shell.expect("> ")
    shell.sendline("/circuit " + str(saved))
    shell.expect("12 neurons, scale 0\r\n")
    shell.sendline("/m 0.5")
    shell.expect("12 neurons, scale 0.5\r\n")
    shell.sendline("/nothing")
    shell.expect("expected one of /help's commands, got /nothing")
    shell.sendline("/side")
    shell.expect("side by side")
    shell.sendline("Hi")
    shell.expect("unsteered: ")
    shell.expect("steered:   ")
    shell.expect("\r\n> ")
    for _ in range(5):  # one that comes before the terminal reads is kept for the next key
        shell.sendintr()  # drops the line
        if shell.expect(["> ", pexpect.TIMEOUT], timeout=5) == 0:
            break
    else:
        raise AssertionError("Ctrl-C did not drop the line")
    shell.sendeof()
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 0


def test_lines_steer_the_answers(tiny: cna.Model, circuit: cna.Circuit, saved: Path) -> None:
    talk, said = talk_of(tiny)
    plain = tiny.chat().say("Hello there", 6)
    with tiny.steer(circuit, 0.0):
        steered = tiny.chat().say("Hello there", 6)
    assert plain != steered
    assert said("Hello there") == plain + "\n"
    said("/new")
    assert "12 neurons, scale 0" in said(f"/circuit {saved}")
    assert said("Hello there") == steered + "\n"
    said("/new")
    assert said("/m 1") == "12 neurons, scale 1\n" and said("Hello there") == plain + "\n"
    said("/new")
    assert said("/off").endswith("off\n") and said("Hello there") == plain + "\n"
    said("/new")
    said("/m 0")
    said("/side")
    assert said("Hello there") == f"unsteered: {plain}\nsteered:   {steered}\n"
    assert talk.plain.messages[-1]["content"] == plain
    assert said("") == "" and not talk.take("/quit")


def test_the_probe_shows_its_score(
    tiny: cna.Model, circuit: cna.Circuit, saved: Path, tmp_path: Path
) -> None:
    rows = [f'"{p}",positive' for p in PROMPTS[:4]] + [f'"{p}",negative' for p in PROMPTS[4:]]
    (tmp_path / "t.csv").write_text("prompt,label\n" + "\n".join([*rows, "x,evaluation"]) + "\n")
    talk, said = talk_of(tiny)
    assert "expected a circuit to probe with" in said("/probe capability-refusal")
    said(f"/circuit {saved}")
    assert said(f"/probe {tmp_path / 't.csv'}").startswith("probe of t: passes above")
    answer = said("Hi")
    assert "probe fires: most" in answer or "probe quiet: most" in answer
    gate = cna.fit_gate(tiny, circuit, PROMPTS[:4], PROMPTS[4:], progress=False)
    (scores,) = gate.token_scores(tiny.core, [talk.steered.tokens])
    assert f"most {max(scores):+.2f} at" in answer
    assert said("/probe") == "no probe\n"


def test_bad_lines_end_nothing(tiny: cna.Model, saved: Path) -> None:
    _, said = talk_of(tiny)
    assert "expected a number behind /m, got 'x'" in said("/m x")
    assert "/none.json" in said("/circuit /none.json")
    assert "expected one of" in said("/what")
    assert said("/help").count("/") > 6
    said("/system Be brief")
    assert said("Hi")


def test_tasks_and_judges_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from cna.cli import main

    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in cna.tasks.names())
    assert main(["tasks", "capability-refusal", "--prompts", "1"]) == 0
    assert "   evaluation: '" in capsys.readouterr().out
    assert main(["tasks", "none"]) == 2
    assert "tasks.load: expected one of" in capsys.readouterr().err
    assert main(["judges"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in cna.judges.names())
    assert (
        main(["judges", "refusal-13", "I'm sorry, but I can't do that.", "Yes, here it is."]) == 0
    )
    out = capsys.readouterr().out
    assert (
        out.startswith("yes I'm sorry") and "no  Yes, here" in out and "1 of 2 by refusal-13" in out
    )


def test_inspect_prints_and_writes_cards(
    exports: Any, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cna.cli import main

    (tmp_path / "texts.txt").write_text("red is a colour\nblue is one too\n")
    words = [
        "inspect",
        str(saved),
        "-m",
        str(exports("llama")),
        "--texts",
        str(tmp_path / "texts.txt"),
    ]
    assert main([*words, "--top", "2", "--tokens", "2", "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "1. layer " in out and "raises" in out and "3. layer" not in out
    assert (tmp_path / "out" / "neurons.html").exists() and "neurons.csv" in out
