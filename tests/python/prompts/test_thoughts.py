"""An answer is judged behind the model's thoughts."""

from __future__ import annotations

from typing import Any

import cna
import pytest
from cna.measure.answers import generate_answers
from cna.measure.summary import summarise
from cna.prompts import Thoughts, split_thoughts
from cna.prompts.thoughts import opens_thoughts, within_budgets
from conftest import PROMPTS, make_tokenizer


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("<think>\nI can't.\n</think>\n\nSure.", False, ("I can't.", "Sure.", True)),
        ("  <think>a</think>b</think>c", False, ("a", "b</think>c", True)),
        ("I can't.\n</think>\n\nSure.", False, ("I can't.", "Sure.", True)),  # the template's tag
        ("I can't.\n</think>\n\nSure.", True, ("I can't.", "Sure.", True)),
        ("<think>I can't, because", False, ("I can't, because", "", False)),
        ("I can't, because", True, ("I can't, because", "", False)),
        ("I can't, because", False, ("", "I can't, because", True)),
        ("Write <think>x</think> there.", False, ("", "Write <think>x</think> there.", True)),
        ("<think>\n\n</think>\n\nSure.", False, ("", "Sure.", True)),
        ("", False, ("", "", True)),
    ],
)
def test_a_text_is_split_at_its_closing_tag(text: str, opened: bool, parts: Any) -> None:
    assert split_thoughts(text, opened=opened) == Thoughts(*parts)


def test_other_tags_and_no_tags() -> None:
    assert split_thoughts("[T]a[/T]b", ("[T]", "[/T]")) == Thoughts("a", "b", True)
    with pytest.raises(ValueError, match=r"^split_thoughts: expected an opening and a closing tag"):
        split_thoughts("a", ("", "</think>"))


class Scripted(cna.Model):
    """Says what it is told to, whatever it generates."""

    says: tuple[str, ...] = ()

    def decode(self, ids: Any) -> str:
        return self.says[sum(ids) % len(self.says)]


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_sweep_judges_what_comes_behind_the_thoughts(tiny: cna.Model, opening: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}<assistant>" + opening
    model = Scripted(tiny.core, tokenizer)
    start = "" if opening else "<think>"
    model.says = (f"{start}no</think>yes, do", f"{start}yes, I should")
    assert opens_thoughts(tokenizer, model.tokenize(["x"])[0]) == bool(opening)
    judge = cna.judges.CallableJudge("yes", lambda answer: answer.startswith("yes"))
    task = cna.tasks.Task("t", "t", PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:], [], judge)
    arm = cna.arms.Arm("model", None, 1.0, cna.Intervention(1))
    log = cna.measure.answers.AnswerLog(None, "")
    frame = generate_answers(
        model,
        [arm],
        {"evaluation": PROMPTS[4:], "benign": []},
        chat=None,
        max_new_tokens=6,
        batch_size=4,
        log=log,
        progress=False,
    )
    table, answers = summarise([arm], frame, task, {}, None)
    leaves = answers["answer"].str.contains("</think>")
    assert list(answers["judged"]) == list(leaves) and list(answers["unended"]) == list(~leaves)
    assert list(answers["thoughts"]) == ["no" if x else "yes, I should" for x in leaves]
    assert table["unended"][0] == pytest.approx((~leaves).mean())
    assert table["judged"][0] == pytest.approx(leaves.mean())


@pytest.mark.parametrize(
    ("said", "opened", "kept", "thinking"),
    [
        ("<think>abc</think>hello", False, "<think>abc</think>hel", 18),
        ("abc</think>hello", True, "abc</think>hel", 11),
        ("abc</think>hello", False, "abc</think>hel", 11),  # the template's tag, not seen
        ("<think>abcdefghijklmnop</think>hello", False, "<think>abcdefghijklm", 20),
        ("<think>abcdefghijklmnop and on", False, "<think>abcdefghijklm", 20),
        ("abc and on", True, "abc and on", 10),
        ("hello", False, "hel", 0),
    ],
)
def test_thoughts_and_answer_have_a_budget_each(
    said: str, opened: bool, kept: str, thinking: int
) -> None:
    """One token a byte: 20 for the thoughts, tags included, 3 for the answer."""
    tokenizer = make_tokenizer()
    tokens = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert len(tokens) == len(said)
    got, count = within_budgets(tokenizer, tokens, opened, 20, 3)
    assert tokenizer.decode(got) == kept and count == thinking


def test_a_sweep_gives_thoughts_their_own_budget(tiny: cna.Model) -> None:
    """The model generates both budgets; a random one does not think, so an answer is cut at its own."""
    judge = cna.judges.CallableJudge("any", lambda answer: bool(answer))
    task = cna.tasks.Task("t", "t", PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:], [], judge)
    circuit = cna.discover(tiny, PROMPTS[:2], PROMPTS[2:4], k=3, universal=None, progress=False)
    few: dict[str, Any] = {"baselines": (), "quiz_questions": 0, "perplexity": False}
    few |= {"layers": False, "progress": False, "multipliers": (0.0,), "kl_prompts": 0}
    plain = cna.sweep(tiny, circuit, task, max_new_tokens=4, **few)
    apart = cna.sweep(tiny, circuit, task, max_new_tokens=4, max_thought_tokens=9, **few)
    assert list(apart.answers["answer"]) == list(plain.answers["answer"])
    assert list(apart.answers["cut"]) == list(plain.answers["cut"])
    assert apart.settings["max_thought_tokens"] == 9
    with pytest.raises(ValueError, match="max_thought_tokens"):
        cna.SweepOptions(max_thought_tokens=0)
