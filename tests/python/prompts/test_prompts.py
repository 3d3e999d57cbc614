"""Prompt files, the diverse prompts, and the quiz."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from cna import prompts, tasks
from cna.cli.common import prompts_of


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def test_text_file_has_one_prompt_a_line_and_blank_lines_are_ignored(tmp_path):
    file = write(tmp_path / "p.txt", "\ufeffOne.\r\n\n  Two, three.  \nÉté\n")
    assert prompts.read_prompts(file) == ["One.", "Two, three.", "Été"]
    assert prompts.read_prompts(str(file)) == prompts.read_prompts(file)


def test_csv_file_has_a_prompt_column_or_one_column(tmp_path):
    named = write(tmp_path / "a.csv", 'id,Prompt\n1,"One, two."\n2,"Three\nfour"\n')
    assert prompts.read_prompts(named) == ["One, two.", "Three\nfour"]
    assert prompts.read_prompts(write(tmp_path / "b.csv", "One\n\nTwo\n")) == ["One", "Two"]


def test_jsonl_file_has_strings_or_objects(tmp_path):
    file = write(tmp_path / "p.jsonl", '"One"\n{"prompt": "Two", "id": 2}\n\n')
    assert prompts.read_prompts(file) == ["One", "Two"]


def test_a_task_gives_its_evaluation_prompts():
    task = tasks.load("capitals")
    assert prompts.read_prompts(task) == task.evaluation
    assert prompts_of("capitals") == task.evaluation
    assert prompts.read_prompts(["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", "expected at least one prompt, got none"),
        ("p.txt", "\n \n", "expected at least one prompt, got none"),
        ("p.csv", "", "expected at least one prompt, got none"),
        ("p.csv", "prompt\n", "expected at least one prompt, got none"),
        ("p.jsonl", "", "expected at least one prompt, got none"),
        ("p.txt", b"caf\xe9", "expected UTF-8 text"),
        ("p.csv", "a,b\n1,2\n", "expected a column named prompt"),
        ("p.csv", "id,prompt\n1,\n", "expected a prompt in every row, got none in data row 1"),
        ("p.csv", 'prompt\n"open\n', "expected a CSV file"),
        ("p.jsonl", "{", "expected one JSON value a line, .* line 1"),
        ("p.jsonl", '"a"\n3', "expected a string or an object .* line 2"),
        ("p.xlsx", "PK", "expected a file ending in .txt, .csv, .jsonl"),
    ],
)
def test_a_bad_prompt_file_gives_one_clear_error(tmp_path, name, text, message):
    file = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=f"^read_prompts: {message}"):
        prompts.read_prompts(file)


def test_a_missing_file_a_folder_and_an_empty_list_give_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^read_prompts: expected a file, .*no such file"):
        prompts.read_prompts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"^read_prompts: expected a file, .*a folder"):
        prompts.read_prompts(tmp_path)
    with pytest.raises(ValueError, match=r"^read_prompts: expected at least one prompt"):
        prompts.read_prompts([])
    with pytest.raises(ValueError, match=r"^read_prompts: expected at least one prompt"):
        prompts.read_prompts(["a", 3])  # type: ignore[list-item]


def test_the_diverse_prompts_are_32_different_ones():
    found = prompts.universal_prompts()
    assert len(found) == len(set(found)) == 32
    assert len({p.split()[0] for p in found}) >= 24
    found.clear()
    assert len(prompts.universal_prompts()) == 32


def test_the_diverse_prompts_are_in_no_task():
    used = {p for n in tasks.names() for p in _all_prompts(tasks.load(n))}
    assert not used & set(prompts.universal_prompts())


def _all_prompts(task: tasks.Task) -> list[str]:
    return task.positive + task.negative + task.evaluation + task.benign


def test_the_quiz_has_80_questions_and_balanced_answers():
    quiz = prompts.read_quiz()
    assert len(quiz) >= 80
    assert len({q.question for q in quiz}) == len(quiz)
    assert all(len(set(q.choices)) == 4 for q in quiz)
    count = Counter(q.letter for q in quiz)
    assert set(count) == set("ABCD")
    assert max(count.values()) - min(count.values()) <= 1


def test_the_quiz_reads_the_mmlu_layout_from_a_file_or_a_folder(tmp_path):
    write(tmp_path / "algebra_test.csv", '"2, plus 2?",1,2,3,4,D\n')
    write(tmp_path / "zoology_test.csv", "Which barks?,Dog,Cat,Cow,Hen,a\n")
    write(tmp_path / "algebra_dev.csv", "no quiz\n")
    one = prompts.read_quiz(tmp_path / "algebra_test.csv")
    assert one == [prompts.Question("2, plus 2?", ("1", "2", "3", "4"), 3, "algebra")]
    both = prompts.read_quiz(tmp_path)
    assert [(q.subject, q.letter, q.answer) for q in both] == [
        ("algebra", "D", 3),
        ("zoology", "A", 0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected questions, got the empty file"),
        ("q,1,2,3,D\n", "expected six filled cells .* row 1"),
        ("q,1,2,3,4,D\nq,1,2,,4,D\n", "expected six filled cells .* row 2"),
        ("question,A,B,C,D,answer\n", "expected an answer of A, B, C or D, got 'answer' in row 1"),
        (b"\xff,1,2,3,4,A", "expected UTF-8 text"),
    ],
)
def test_a_bad_quiz_gives_one_clear_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"^read_quiz: {message}"):
        prompts.read_quiz(write(tmp_path / "x_test.csv", text))


def test_a_missing_quiz_gives_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^read_quiz: expected files named \*_test.csv"):
        prompts.read_quiz(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^read_quiz: expected a file"):
        prompts.read_quiz(tmp_path / "none.csv")
