"""A task of messages is measured as the same prompts are when they are ids."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cna
import pytest
from cna.hosts.messages import as_text, behind, question
from conftest import PROMPTS

RULE = {"role": "system", "content": "Be brief."}
TURNS = [RULE, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]


def talk(text: str) -> list[dict[str, Any]]:
    return [*TURNS, {"role": "user", "content": text}]


def test_a_prompt_is_shown_asked_and_put_behind_an_instruction() -> None:
    asked = talk("Go")
    assert question(asked) == question("Go") == "Go"
    assert as_text(asked) == "system: Be brief.\nuser: Hi\nassistant: Yes?\nuser: Go"
    assert as_text(asked[-1:]) == as_text("Go") == "Go"
    assert behind("Sing.", asked) == talk("Sing.\n\nGo") and asked == talk("Go")
    assert behind("Sing.", "Go") == "Sing.\n\nGo" and behind("", asked) is asked
    parts = [{"role": "user", "content": [{"type": "text", "text": "Go"}]}]
    assert question(parts) == as_text(parts) == "Go"
    with pytest.raises(ValueError, match="expected a user's message"):
        behind("Sing.", [RULE])


def test_a_task_file_holds_messages_and_a_sweep_answers_them(
    tiny: cna.Model, tmp_path: Path
) -> None:
    labels = ["positive"] * 2 + ["negative"] * 2 + ["evaluation"] * 3 + ["benign"]
    lines = [
        json.dumps({"prompt": talk(p), "label": label})
        for p, label in zip(PROMPTS, labels, strict=True)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (tmp_path / "t.judge.json").write_text('{"kind": "keyword", "name": "k", "patterns": ["a"]}')
    task = cna.tasks.load(tmp_path / "t.jsonl")
    assert task.evaluation == [talk(p) for p in PROMPTS[4:7]]
    assert cna.prompts.read_prompts(task) == task.evaluation
    seen: list[str | None] = []

    def judge(answer: str, prompt: str | None) -> bool:
        seen.append(prompt)
        return len(answer) % 2 == 0

    task = dataclasses.replace(
        task, judge=cna.judges.CallableJudge("even", judge, needs_prompt=True)
    )
    circuit = cna.discover(tiny, task.positive, task.negative, k=5, universal=None, progress=False)
    how: dict[str, Any] = {"max_new_tokens": 4, "quiz_questions": 0, "perplexity": False}
    how |= {"prompt_baseline": "Sing.", "layers": False}
    result = cna.sweep(tiny, circuit, task, [0.0], ["prompt"], **how, progress=False)
    plain = result.answers.query("kind == 'prompt' and set == 'evaluation'")
    said = tiny.generate([talk(f"Sing.\n\n{p}") for p in PROMPTS[4:7]], 4)
    assert list(plain["answer"]) == said
    assert list(plain["prompt"]) == [as_text(talk(p)) for p in PROMPTS[4:7]]
    assert set(seen) == set(PROMPTS[4:])
