"""How many multiple-choice questions a steered model answers right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .. import _core
from ..hosts.model import Model
from ..prompts.quiz import Question, read_quiz

Update = Callable[[int, int], None] | None


def quiz_accuracy(
    model: Model,
    intervention: _core.Intervention | None = None,
    quiz: Sequence[Question] | None = None,
    n_questions: int | None = None,
    *,
    by: str = "text",
    chat: bool | None = False,
    batch_size: int = 64,
    progress: Update = None,
) -> torch.Tensor:
    """Which questions are answered right, bool [arms, n_questions].

    Args:
        by: "text" ranks the choices by mean log-probability per token of their text, as suits small
            models; "letter" lists the choices and ranks A, B, C and D, as MMLU is usually run.
        quiz: questions in the MMLU layout, from `cna.prompts.read_quiz`; the built-in set by default.
    """
    if by not in ("text", "letter"):
        raise ValueError(f"quiz_accuracy: expected by='text' or 'letter', got '{by}'; choose one")
    intervention = intervention or _core.Intervention(1)
    questions = list(quiz if quiz is not None else read_quiz())[:n_questions]
    if not questions:
        raise ValueError("quiz_accuracy: expected at least one question, got none; pass a quiz")
    if model.tokenizer is None:
        return torch.zeros(intervention.arms, len(questions), dtype=torch.bool)
    prompts, continuations = [], []
    for q in questions:
        if by == "letter":
            listed = "\n".join(f"{x}. {c}" for x, c in zip("ABCD", q.choices, strict=True))
            prompt = f"Question: {q.question}\n{listed}\nAnswer:"
            ends = [f" {x}" for x in "ABCD"]
        else:
            prompt, ends = f"Question: {q.question}\nAnswer:", [f" {c}" for c in q.choices]
        prompts += [prompt] * len(ends)
        continuations += ends
    ids = model.tokenize(prompts, chat)
    encoded = model.tokenizer(continuations, add_special_tokens=False)["input_ids"]
    n = len(ids)
    arms = [a for a in range(intervention.arms) for _ in range(n)]
    scores = model.core.log_likelihood(
        ids * intervention.arms,
        encoded * intervention.arms,
        intervention=intervention,
        arms=arms,
        batch_rows=batch_size,
        progress=progress,
    )
    lengths = torch.tensor([len(e) for e in encoded], dtype=torch.float64)
    mean = (scores.view(intervention.arms, n) / lengths).view(intervention.arms, len(questions), 4)
    return mean.argmax(-1) == torch.tensor([q.answer for q in questions])
