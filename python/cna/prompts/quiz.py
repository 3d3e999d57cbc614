"""Multiple-choice questions in the MMLU layout."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .readers import read_csv

_DATA = Path(__file__).with_name("data")


@dataclass(frozen=True)
class Question:
    """A multiple-choice question: its text, four choices, the index (0-3) of the right one."""

    question: str
    choices: tuple[str, str, str, str]
    answer: int
    subject: str = ""

    @property
    def letter(self) -> str:
        """The right choice as a letter, A to D."""
        return "ABCD"[self.answer]


def read_quiz(source: str | Path | None = None) -> list[Question]:
    """Read multiple-choice questions in the MMLU layout.

    source: a CSV file without header and with the columns question, A, B, C, D, letter of the right
    answer; or a folder, of which every `*_test.csv` is read (the subject is the file's name); None
    reads the library's own quiz of general knowledge (88 questions).
    A small model tends to name one letter whatever the question (SmolLM2-135M-Instruct: always A),
    so score the choices by the likelihood of their text (that model: 0.65 by mean log-probability
    per token on the library's quiz; chance is 0.25).
    Raises FileNotFoundError for a missing file or a folder without `*_test.csv`, ValueError for an
    empty file, rows of another width, empty cells, or an answer other than A to D.
    """
    caller = "read_quiz"
    path = _DATA / "quiz.csv" if source is None else Path(source)
    if path.is_dir():
        files = sorted(path.glob("*_test.csv"))
        if not files:
            raise FileNotFoundError(
                f"{caller}: expected files named *_test.csv, got the folder {str(path)!r} without "
                "any; name one CSV file, or the folder that holds the MMLU test files"
            )
    else:
        files = [path]
    questions = []
    for file in files:
        subject = file.stem.removesuffix("_test")
        rows = read_csv(file, caller)
        if not rows:
            raise ValueError(
                f"{caller}: expected questions, got the empty file {str(file)!r}; "
                "write rows of question,A,B,C,D,letter"
            )
        for number, row in enumerate(rows, start=1):
            cells = [cell.strip() for cell in row]
            if len(cells) != 6 or not all(cells):
                raise ValueError(
                    f"{caller}: expected six filled cells (question,A,B,C,D,letter), got "
                    f"{len([c for c in cells if c])} in row {number} of {str(file)!r}; "
                    "mend the row (cells that hold commas need quotes)"
                )
            if cells[5].upper() not in ("A", "B", "C", "D"):
                raise ValueError(
                    f"{caller}: expected an answer of A, B, C or D, got {cells[5]!r} in row "
                    f"{number} of {str(file)!r}; the file has no header row and ends in the letter"
                )
            choices = (cells[1], cells[2], cells[3], cells[4])
            questions.append(Question(cells[0], choices, "ABCD".index(cells[5].upper()), subject))
    return questions


def draw_questions(
    questions: Sequence[Question], n: int | None = None, seed: int = 0
) -> list[Question]:
    """`n` questions, as many of each subject as there are (to one), in their own order.

    The same seed draws the same questions; all of them where `n` is None or not fewer.
    """
    if n is None or n >= len(questions):
        return list(questions)
    rng = random.Random(seed)
    subjects: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        subjects.setdefault(question.subject, []).append(i)
    piles = [rng.sample(pile, len(pile)) for _, pile in sorted(subjects.items())]
    rng.shuffle(piles)
    drawn: list[int] = []
    while len(drawn) < n:  # a question of each subject in turn
        for pile in piles:
            if pile and len(drawn) < n:
                drawn.append(pile.pop())
    return [questions[i] for i in sorted(drawn)]
