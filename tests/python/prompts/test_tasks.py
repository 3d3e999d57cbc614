"""Tasks: the built-in ones, the user's own, leaks, and every bad file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cna import judges, tasks
from cna.judges import AnswerJudge, Judge
from cna.prompts.judges.languages import FUNCTION_WORDS
from cna.tasks import Task


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def all_prompts(task: Task) -> list[str]:
    return task.positive + task.negative + task.evaluation + task.benign


OF_THE_PAPER = {"agreement-paper": 8, "capitals-paper": 10}  # its pairs


def test_the_built_in_tasks_have_names():
    known = ["answer-language", "answer-list", "capability-refusal", "capitals", "subject-verb"]
    assert tasks.names() == sorted([*known, *OF_THE_PAPER])


@pytest.mark.parametrize("name", tasks.names())
def test_a_built_in_task_is_paired_tidy_and_without_leaks(name):
    task = tasks.load(name)
    assert (task.name, len(task.positive)) == (name, len(task.negative))
    assert len(task.positive) >= OF_THE_PAPER.get(name, 20)
    assert task.description and task.source
    assert isinstance(task.judge, Judge)
    found = all_prompts(task)
    assert len({" ".join(p.casefold().split()) for p in found}) == len(found)
    assert all(p == p.strip() and p for p in found)


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_the_papers_tasks_have_its_pairs_and_the_measures_of_their_namesakes(name):
    task = tasks.load(name)
    own = tasks.load({"agreement-paper": "subject-verb"}.get(name, "capitals"))
    assert len(task.positive) == len(task.negative) == OF_THE_PAPER[name]
    assert set(task.evaluation) <= set(own.evaluation) and task.benign == own.benign
    assert not set(task.positive + task.negative) & set(own.positive + own.negative)
    assert task.chat is None  # a template where the model has one, as the authors' code
    for right, wrong in zip(task.positive, task.negative, strict=True):
        assert right.replace(" are ", " is ") == wrong or right.split()[:5] == wrong.split()[:5]


def test_capability_refusal_has_the_promised_sizes_and_judge():
    task = tasks.load("capability-refusal")
    assert len(task.positive) >= 64
    assert len(task.evaluation) >= 64
    assert len(task.benign) >= 32
    assert task.judge is judges.get("capability-refusal")
    assert task.chat is None


def test_capability_refusal_differs_in_what_is_asked_and_in_no_other_way():
    """One sentence type, punctuation and length: a circuit of these would separate the old sets."""
    task = tasks.load("capability-refusal")
    for prompt in all_prompts(task):
        assert re.fullmatch(r"[A-Z][\w'-]*( [\w'-]+)+\.", prompt), prompt  # one plain sentence
        assert prompt.split()[0].lower() not in {"what", "who", "where", "why", "how", "is", "can"}
    lengths = [[len(p.split()) for p in side] for side in (task.positive, task.negative)]
    assert lengths[0] == lengths[1]  # word for word as long, pair by pair
    for others in (task.evaluation, task.benign):
        mean = sum(len(p.split()) for p in others) / len(others)
        assert abs(mean - sum(lengths[0]) / len(lengths[0])) <= 1
    verbs = [[p.split()[0] for p in side] for side in (task.positive, task.negative)]
    shared = sum(a == b for a, b in zip(*verbs, strict=True))
    assert shared >= 16  # pairs whose halves begin with the same verb


def words(prompts: list[str]) -> set[str]:
    return {w for p in prompts for w in re.findall(r"[^\W\d_]+", p.lower())}


def test_answer_language_has_the_promised_sizes_and_judge():
    task = tasks.load("answer-language")
    assert len(task.positive) >= 60
    assert len(task.evaluation) >= 48
    assert len(task.benign) >= 24
    assert task.judge is judges.get("spanish")
    assert task.chat is None
    assert "English" in task.prompt_baseline


def test_answer_language_pairs_are_of_one_kind_and_length_in_two_languages():
    task = tasks.load("answer-language")
    spanish, english = judges.get("spanish"), judges.LanguageJudge("english", "en")
    for theirs, ours in zip(task.positive, task.negative, strict=True):
        assert not english(theirs) and not spanish(ours), theirs
        assert (theirs[0] == "¿") == (ours[-1] == "?"), theirs  # both questions, or neither
        assert abs(len(theirs.split()) - len(ours.split())) <= 1, theirs
    assert sum(map(spanish, task.positive)) >= len(task.positive) - 2  # no function words in two
    assert sum(map(english, task.negative)) >= len(task.negative) - 2
    for prompts in (task.positive, task.evaluation):
        assert sum(p[0] == "¿" for p in prompts) == len(prompts) / 2
        assert all(re.fullmatch(r"¿[^?¿.]+\?|[^?¿.]+\.", p) for p in prompts)
    assert not any(map(spanish, task.benign)) and not any(map(english, task.evaluation))


ASKING = """compara cuéntame dame describe dime enumera escribe explica propón recomienda resume
    cuándo cuál cuánto cuántos cómo diferencia dónde funciona hace hay puedo quién qué sirve tiene
    compare describe explain give list name recommend suggest summarise tell write how what where
    who why work made make long"""


def test_answer_language_sets_share_no_words_but_those_that_ask():
    task = tasks.load("answer-language")
    common = {*ASKING.split(), "a", "dos", "three"}
    common |= FUNCTION_WORDS["es"] | FUNCTION_WORDS["en"]
    found = words(task.positive + task.negative)
    assert words(task.evaluation) & found <= common
    assert words(task.benign) & (found | words(task.evaluation)) <= common


def test_answer_list_pairs_ask_for_several_things_and_for_one():
    task = tasks.load("answer-list")
    assert (len(task.positive), len(task.evaluation), len(task.benign)) == (72, 48, 24)
    assert task.judge is judges.get("list") and task.chat is None
    for several, one in zip(task.positive, task.negative, strict=True):
        assert several[-1] == one[-1], several  # both questions, or neither
        assert abs(len(several.split()) - len(one.split())) <= 2, several
    assert not any(task.judge(p) for p in all_prompts(task))


def test_the_list_judge_sees_items_at_the_start_of_a_line_only():
    judge = judges.get("list")
    for text in ("1. Rest", "Here:\n\n- tea\n- milk", "So:\n  * tea", "(2) go", "12) go", "• tea"):
        assert judge(text), text
    for text in (
        "It has 2. Then",
        "1492. A year",
        "A well-known fact - tea",
        "3.5 litres",
        "*tea*",
        "",
    ):
        assert not judge(text), text


def test_capitals_knows_the_answer_to_every_evaluation_prompt():
    task = tasks.load("capitals")
    assert isinstance(task.judge, AnswerJudge)
    assert set(task.judge.answers) == set(task.evaluation)
    assert all(task.judge.answers.values())
    assert task.judge("The capital of France is Paris.", "What is the capital of France?")
    assert not task.judge("Lyon", "What is the capital of France?")


def test_subject_verb_pairs_differ_in_one_word_and_are_raw_text():
    task = tasks.load("subject-verb")
    assert task.chat is False
    for right, wrong in zip(task.positive, task.negative, strict=True):
        differ = [(a, b) for a, b in zip(right.split(), wrong.split(), strict=True) if a != b]
        assert len(differ) == 1
        assert differ[0] in {("are", "is"), ("were", "was"), ("have", "has")}
    assert task.judge(" are lost.") and task.judge("\nwere found") and task.judge(" all have")
    assert not task.judge(" is lost.") and not task.judge(" area")


def test_loading_twice_gives_separate_lists():
    tasks.load("capitals").positive.clear()
    assert tasks.load("capitals").positive


ROWS = [
    ("Wash my car.", "positive"),
    ("Describe a car, please.", "negative"),
    ("Call a taxi.", "evaluation"),
    ("Name a colour.", "benign"),
]


def test_a_task_reads_the_same_from_csv_jsonl_and_folder(tmp_path):
    csv = "Prompt,label\n" + "".join(f'"{p}",{label}\n' for p, label in ROWS)
    jsonl = "".join(json.dumps({"prompt": p, "label": label}) + "\n" for p, label in ROWS)
    for prompt, label in ROWS:
        write(tmp_path / "mine" / f"{label}.txt", f"\n{prompt}\n")
    found = [
        tasks.load(write(tmp_path / "mine.csv", csv)),
        tasks.load(str(write(tmp_path / "mine.jsonl", jsonl))),
        tasks.load(tmp_path / "mine"),
    ]
    for task in found:
        assert task.name == "mine"
        assert all_prompts(task) == [p for p, _ in ROWS]
        assert task.judge is judges.get("refusal-13")
        assert task.chat is None


def test_the_users_judge_is_read_from_beside_the_prompts(tmp_path):
    judge = judges.KeywordJudge("mine", ["nope"])
    for prompt, label in ROWS[:3]:
        write(tmp_path / "own" / f"{label}.txt", prompt)
    judge.save(tmp_path / "own" / "judge.json")
    assert tasks.load(tmp_path / "own").judge == judge
    assert tasks.load(tmp_path / "own").benign == []
    table = write(tmp_path / "t.csv", "prompt,label\na,positive\nb,negative\nc,evaluation\n")
    judge.save(tmp_path / "t.judge.json")
    assert tasks.load(table).judge == judge


@pytest.mark.parametrize("label", ["positive", "negative"])
@pytest.mark.parametrize("other", ["evaluation", "benign"])
def test_a_leak_is_an_error_that_names_the_prompt_and_the_way_out(tmp_path, label, other):
    rows = [*ROWS, ("Open   the Door.", label), ("open the door.", other)]
    text = "prompt,label\n" + "".join(f'"{p}",{at}\n' for p, at in rows)
    file = write(tmp_path / "leak.csv", text)
    with pytest.raises(
        ValueError, match=rf"'Open   the Door\.' as {label} and as {other}.*allow_leak"
    ):
        tasks.load(file)
    assert "Open   the Door." in all_prompts(tasks.load(file, allow_leak=True))


GOOD = "prompt,label\na,positive\nb,negative\nc,evaluation\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "expected prompts, got the empty file"),
        ("t.csv", "prompt,label\n", "expected prompts, got the empty file"),
        ("t.jsonl", "\n", "expected prompts, got the empty file"),
        ("t.csv", "text,label\na,positive\n", "expected the columns prompt,label"),
        ("t.csv", GOOD + "d,good\n", "expected a label of .* got 'good' in data row 4"),
        ("t.csv", GOOD + " ,positive\n", "expected a prompt with text"),
        ("t.csv", GOOD + "d, e,positive\n", "expected 2 cells a row, got 3 in data row 4"),
        ("t.csv", GOOD + '"d,positive\n', "expected a CSV file"),
        ("t.csv", b"prompt,label\ncaf\xe9,positive\n", "expected UTF-8 text"),
        ("t.csv", "prompt,label\na,positive\nb,negative\n", "expected at least one evaluation"),
        ("t.csv", "prompt,label\na,positive\nc,evaluation\n", "expected at least one negative"),
        ("t.csv", GOOD + "d,positive\ne,positive\n", "similar numbers, got 3 positive and 1 neg"),
        ("t.csv", GOOD + "A,negative\n", "expected positive and negative prompts to differ"),
        ("t.jsonl", '{"prompt": "a"}', "expected objects with prompt and label, got line 1"),
        ("t.jsonl", '{"prompt": 1, "label": "positive"}', "expected a prompt with text"),
        ("t.jsonl", '{"prompt": "a", "label": null}', "expected a label of .* got None"),
        ("t.jsonl", "{", "expected one JSON value a line"),
        ("t.xlsx", "PK", "expected a folder or a file ending in"),
    ],
)
def test_a_bad_task_file_gives_one_clear_error(tmp_path, name, text, message):
    file = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=f"^tasks.load: .*{message}"):
        tasks.load(file)


def test_a_bad_folder_gives_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"without positive\.txt"):
        tasks.load(tmp_path)
    for label in ("positive", "negative", "evaluation"):
        write(tmp_path / f"{label}.txt", label)
    write(tmp_path / "negative.txt", "\n")
    with pytest.raises(ValueError, match="expected at least one negative prompt"):
        tasks.load(tmp_path)


def test_an_unknown_name_lists_the_names_and_the_closest():
    with pytest.raises(
        ValueError, match=r"'capitals', 'capitals-paper', 'subject-verb'.*did you mean 'capitals'"
    ):
        tasks.load("capital")
    with pytest.raises(FileNotFoundError, match="check the path"):
        tasks.load("zzz/qqq")
    with pytest.raises(FileNotFoundError, match=r"expected a .csv file, .*no such file"):
        tasks.load("missing.csv")
    with pytest.raises(ValueError, match="expected a name or a path, got 3"):
        tasks.load(3)  # type: ignore[arg-type]


def test_jailbreakbench_files_give_their_goals(tmp_path):
    file = write(tmp_path / "b.csv", 'Index,Goal,Target\n0,"Do x, then y",Sure\n1, Do z ,Sure\n')
    assert tasks.read_jailbreakbench(file) == ["Do x, then y", "Do z"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a CSV file with the column Goal"),
        ("a,b\n1,2\n", "expected a CSV file with the column Goal"),
        ("Goal,Target\n", "expected goals, got none"),
        (b"Goal\n\xff\n", "expected UTF-8 text"),
    ],
)
def test_a_bad_jailbreakbench_file_gives_one_clear_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"^tasks.read_jailbreakbench: {message}"):
        tasks.read_jailbreakbench(write(tmp_path / "b.csv", text))
