"""Quiz questions are tokenised with their endings, drawn over subjects, and named in the table."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pytest
import torch
from cna import judges
from cna.measure.pairs import encode_pair, encode_text
from cna.metrics import quiz_accuracy
from cna.prompts import Question, draw_questions, read_quiz
from cna.tasks import Task
from conftest import PROMPTS, make_hf
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast


def sentence_piece(special: str = "<s> $A") -> Any:
    """Characters, and "▁A" to "▁D", as SentencePiece models of Llama 2's kind cut them."""
    letters = [chr(c) for c in range(32, 127)]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3}
    for symbol in [*letters, "\n", "▁A", "▁B", "▁C", "▁D"]:
        vocab.setdefault(symbol, len(vocab))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", x) for x in "ABCD"], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single=special, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module")
def model() -> cna.Model:
    return cna.live(copy.deepcopy(make_hf("llama")), sentence_piece())


QUIZ = [
    Question(f"Which of {i}?", ("alpha", "Be", "Dim C", f"no {i}"), i % 4, f"subject {i % 5}")
    for i in range(40)
]


def test_an_ending_gets_the_tokens_that_it_has_behind_its_text() -> None:
    tokenizer = sentence_piece()
    alone = tokenizer(" A", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone) == ["▁", "▁A"]  # what SentencePiece does
    head, tail = encode_pair(tokenizer, "Answer:", " A")
    assert tokenizer.convert_ids_to_tokens(tail) == ["▁A"] and head[0] == 1
    assert head + tail == tokenizer("Answer: A")["input_ids"]
    assert encode_pair(tokenizer, "Answer: ", "A") == (head, tail)


def test_an_end_token_that_a_tokenizer_appends_does_not_stand_in_between() -> None:
    ends, plain = sentence_piece("<s> $A </s>"), sentence_piece()
    assert ends("Answer:")["input_ids"][-1] == 2
    assert encode_pair(ends, "Answer:", " B") == encode_pair(plain, "Answer:", " B")
    assert encode_text(ends, "a</s>")[-1] == 2  # written by the caller


@pytest.mark.parametrize("by", ["letter", "text"])
def test_the_quiz_equals_hugging_face_on_the_joint_text(model: cna.Model, by: str) -> None:
    tokenizer, hf = model.tokenizer, make_hf("llama")
    expected = []
    for q in QUIZ[:16]:
        listed = "".join(f"\n{x}. {c}" for x, c in zip("ABCD", q.choices, strict=True))
        text = f"Question: {q.question}{listed if by == 'letter' else ''}\nAnswer:"
        scores = []
        for end in "ABCD" if by == "letter" else q.choices:
            ids = tokenizer(f"{text} {end}")["input_ids"]
            n = len(ids) - len(tokenizer(text)["input_ids"])
            assert n == 1 or by == "text"
            with torch.no_grad():
                rows = hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores.append(
                float(rows[-n - 1 : -1].gather(1, torch.tensor(ids[-n:])[:, None]).mean())
            )
        expected.append(int(np.argmax(scores)) == q.answer)
    assert quiz_accuracy(model, None, QUIZ[:16], by=by)[0].tolist() == expected


def test_questions_are_drawn_evenly_over_subjects() -> None:
    sizes = {"a": 300, "b": 12, "c": 5, "d": 1}
    quiz = [
        Question(f"{s}{i}", ("p", "q", "r", "s"), 0, s) for s, n in sizes.items() for i in range(n)
    ]
    drawn = draw_questions(quiz, 24, seed=3)
    assert Counter(q.subject for q in drawn) == {"a": 9, "b": 9, "c": 5, "d": 1}
    assert drawn == draw_questions(quiz, 24, seed=3) != draw_questions(quiz, 24, seed=4)
    assert [quiz.index(q) for q in drawn] == sorted(quiz.index(q) for q in drawn)
    assert draw_questions(quiz, None) == draw_questions(quiz, 999) == quiz
    assert len(draw_questions(read_quiz(), 60)) == 60


def test_the_table_and_the_run_say_what_was_asked(model: cna.Model, tmp_path: Path) -> None:
    judge = judges.CallableJudge("never", lambda answer: False)
    task = Task("toy", "toy", PROMPTS[:4], PROMPTS[4:], ["Do it."], [], judge, chat=False)
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=5, universal=None)
    options: dict[str, Any] = {"max_new_tokens": 2, "kl_prompts": 0, "perplexity": False}
    options |= {"baselines": [], "progress": False}
    for more, said in (
        (
            {"quiz": QUIZ, "quiz_questions": 10, "quiz_seed": 5},
            "by letter, zero-shot, 10 of 40 questions of 5 subjects, seed 5",
        ),
        (
            {"quiz": QUIZ, "quiz_questions": 99, "quiz_by": "text"},
            "by text, zero-shot, 40 of 40 questions of 5 subjects",
        ),
        ({"quiz_questions": 4}, "by text, zero-shot, 4 of 88 questions, seed 0"),
    ):
        result = cna.sweep(model, circuit, task, [0.0], **options, **more)
        assert set(result.table.quiz) == {said} == {result.settings["quiz"]}
    with pytest.raises(ValueError, match="quiz_by='text' or 'letter'"):
        cna.SweepOptions(quiz_by="number")
