"""How many multiple-choice questions a steered model answers right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .. import _core
from ..hosts.messages import chat_text
from ..hosts.model import Model
from ..prompts.quiz import Question, draw_questions, read_quiz
from .pairs import encode_pair

Update = Callable[[int, int], None] | None
WAYS = ("text", "letter")


def quiz_accuracy(
    model: Model,
    intervention: _core.Intervention | None = None,
    quiz: Sequence[Question] | None = None,
    n_questions: int | None = None,
    *,
    by: str = "text",
    seed: int = 0,
    chat: bool | None = False,
    batch_size: int = 64,
    progress: Update = None,
) -> torch.Tensor:
    """Which questions are answered right, bool [arms, n_questions]; zero-shot.

    Question and choice are tokenised together. Steered by `intervention` alone: its arms.

    Args:
        quiz: questions in the MMLU layout, from `cna.prompts.read_quiz`; the built-in set by default.
        n_questions: drawn by `seed`, as many of each subject; all by default.
        by: "text" ranks the choices by mean log-probability per token of their text, as suits small
            models; "letter" lists the choices and ranks A, B, C and D, as MMLU is usually run.
    Raises:
        ValueError: no question, another `by`, or a choice without tokens of its own.
    """
    if by not in WAYS:
        raise ValueError(f"quiz_accuracy: expected by='text' or 'letter', got '{by}'; choose one")
    intervention = intervention or _core.Intervention(1)
    questions = draw_questions(quiz if quiz is not None else read_quiz(), n_questions, seed)
    if not questions:
        raise ValueError("quiz_accuracy: expected at least one question, got none; pass a quiz")
    if model.tokenizer is None:
        return torch.zeros(intervention.arms, len(questions), dtype=torch.bool)
    pairs = [_encode(model, text, end, chat) for text, end in _texts(questions, by)]
    ids, ends = [head for head, _ in pairs], [tail for _, tail in pairs]
    n = len(ids)
    scores = model.core.log_likelihood(
        ids * intervention.arms,
        ends * intervention.arms,
        intervention=intervention,
        arms=[a for a in range(intervention.arms) for _ in range(n)],
        batch_rows=batch_size,
        progress=progress,
    )
    lengths = torch.tensor([len(e) for e in ends], dtype=torch.float64)
    mean = (scores.view(intervention.arms, n) / lengths).view(intervention.arms, len(questions), 4)
    return mean.argmax(-1) == torch.tensor([q.answer for q in questions])


def quiz_label(quiz: Sequence[Question], drawn: Sequence[Question], by: str, seed: int) -> str:
    """What accuracy was measured on, for tables: "by letter, zero-shot, 60 of 171 questions ..."."""
    subjects = {q.subject for q in drawn}
    over = f" of {len(subjects)} subjects" if len(subjects) > 1 else ""
    chosen = f", seed {seed}" if len(drawn) < len(quiz) else ""
    return f"by {by}, zero-shot, {len(drawn)} of {len(quiz)} questions{over}{chosen}"


def _texts(questions: Sequence[Question], by: str) -> list[tuple[str, str]]:
    """Each question with each of its four choices, as text and ending."""
    out = []
    for q in questions:
        if by == "letter":
            listed = "\n".join(f"{x}. {c}" for x, c in zip("ABCD", q.choices, strict=True))
            out += [(f"Question: {q.question}\n{listed}\nAnswer:", f" {x}") for x in "ABCD"]
        else:
            out += [(f"Question: {q.question}\nAnswer:", f" {c}") for c in q.choices]
    return out


def _encode(model: Model, text: str, end: str, chat: bool | None) -> tuple[list[int], list[int]]:
    templated = model.uses_chat(chat)
    if templated:
        talk = [{"role": "user", "content": text}]
        text = chat_text(model.tokenizer, talk, model.system, model.template_kwargs)
    head, tail = encode_pair(model.tokenizer, text, end, special=not templated)
    if not tail:
        raise ValueError(
            f"quiz_accuracy: expected tokens of its own in every choice, got none in '{end.strip()}' "
            "behind its question; write it in other words"
        )
    return head, tail
