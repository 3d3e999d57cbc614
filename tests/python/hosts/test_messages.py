"""Messages reach the model as the chat template writes them, or one clear line says why not."""

from __future__ import annotations

from typing import Any

import cna
import pytest
import torch
from conftest import PROMPTS, hf_generate, make_tokenizer

USER = {"role": "user", "content": "Hi"}
TURNS = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "Yes?"},
    {"role": "tool", "content": "42"},
    {"role": "user", "content": "Go on."},
]
# As of a model that may think: it knows dates, tools and a switch, and begins with its own BOS.
RICH = (
    "{{ bos_token }}{{ date or 'today' }}|{% for t in tools or [] %}{{ t.function.name }},{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)
TOOL = {
    "type": "function",
    "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object"}},
}


def with_template(model: cna.Model, template: str, **settings: Any) -> cna.Model:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return cna.Model(model.core, tokenizer, **settings)


def written(model: cna.Model, talk: list[Any], **told: Any) -> list[int]:
    """Ids of a conversation by transformers alone."""
    begun = talk[-1]["role"] == "assistant"
    text = model.tokenizer.apply_chat_template(
        talk, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun, **told
    )
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_several_turns_are_answered_as_hugging_face_answers_them(
    tiny: cna.Model, tiny_hf: Any
) -> None:
    talks = [TURNS, TURNS[:2], [USER]]
    ids = [written(tiny, talk) for talk in talks]
    assert tiny.tokenize(talks) == ids
    assert all(row.count(256) == 1 for row in ids)
    answers = tiny.generate(talks, max_new_tokens=6, return_tokens=True)
    assert answers == [hf_generate(tiny_hf, row, 6) for row in ids]
    with torch.no_grad():
        plain = torch.stack([tiny_hf(torch.tensor([row])).logits[0, -1] for row in ids])
    torch.testing.assert_close(tiny.logits(talks), plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(tiny.record(talks), tiny.record(ids))


def test_what_is_found_with_messages_is_what_is_found_with_their_ids(tiny: cna.Model) -> None:
    sides = [
        [[TURNS[0], {"role": "user", "content": p}] for p in x] for x in (PROMPTS[:4], PROMPTS[4:])
    ]
    ids = [[written(tiny, talk) for talk in side] for side in sides]
    how: dict[str, Any] = {"k": 5, "universal": None, "progress": False}
    assert cna.discover(tiny, *sides, **how).neurons == cna.discover(tiny, *ids, **how).neurons
    a, b = (cna.caa(tiny, *x, layers=[1], progress=False).vectors for x in (sides, ids))
    assert torch.equal(*(next(iter(x.values())) for x in (a, b)))
    many = [[TURNS[0], {"role": "user", "content": f"{i}: {p}"}] for i in range(2) for p in PROMPTS]
    found = cna.universal_neurons(tiny, many, progress=False)
    same = cna.universal_neurons(tiny, [written(tiny, t) for t in many], progress=False)
    assert found.prompt_hash == same.prompt_hash


@pytest.mark.parametrize("template", [None, RICH])
@pytest.mark.parametrize("begun", ["Sure, ", "Sure,"])
def test_an_assistants_message_that_comes_last_is_continued(
    tiny: cna.Model, template: str | None, begun: str
) -> None:
    model = with_template(tiny, template) if template else tiny
    talk = [*TURNS, {"role": "assistant", "content": begun}]
    ids = written(model, talk)
    assert model.tokenize([talk]) == [ids]
    assert model.tokenizer.decode(ids).rstrip().endswith("<assistant>Sure,")


def test_a_template_that_cannot_continue_says_so(tiny: cna.Model) -> None:
    model = with_template(
        tiny, "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(
        ValueError, match=r"^tokenize: .*can continue the assistant's message.*; pass "
    ):
        model.tokenize([[USER, {"role": "assistant", "content": "Sure"}]])


def test_settings_of_the_model_and_of_a_call_reach_the_template(tiny: cna.Model) -> None:
    told = {"date": "1 May", "tools": [TOOL]}
    model = with_template(tiny, RICH, system="Be brief.", template_kwargs=told)
    first = {"role": "system", "content": "Be brief."}
    plain = written(model, [first, USER], **told)
    assert model.tokenize(["Hi"]) == model.tokenize([[USER]]) == [plain]
    assert b"clock" in bytes(t + 33 for t in plain if t < 94)
    thinking = model.tokenize(["Hi"], template_kwargs={"enable_thinking": True})
    assert thinking == [written(model, [first, USER], **told, enable_thinking=True)]
    other = {"role": "system", "content": "Sing."}
    assert model.tokenize(["Hi"], system="Sing.") == [written(model, [other, USER], **told)]
    assert model.tokenize(["Hi"], system="") == [written(model, [USER], **told)]
    assert model.tokenize(["Hi"]) == [plain]  # a call's settings are its own
    said = model.generate(["Hi"], 4, system="Sing.", return_tokens=True)
    assert said == model.generate([written(model, [other, USER], **told)], 4, return_tokens=True)
    assert model.tokenize(["Hi"], chat=False) == [list(model.tokenizer("Hi")["input_ids"])]


def test_settings_stand_in_a_circuits_file(tiny: cna.Model) -> None:
    model = with_template(tiny, RICH, system="Be brief.", template_kwargs={"date": "1 May"})
    found = cna.discover(model, PROMPTS[:2], PROMPTS[2:4], k=3, universal=None).provenance
    assert found["system_message"] == "Be brief." and found["template_kwargs"] == {"date": "1 May"}


DEAF = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"


@pytest.mark.parametrize(
    ("template", "says"), [(DEAF, "leaves its message out"), (STRICT, "TemplateError: no system")]
)
def test_a_template_without_the_role_system_drops_nothing_silently(
    tiny: cna.Model, template: str, says: str
) -> None:
    model = with_template(tiny, template, system="Be brief.")
    with pytest.raises(ValueError, match=rf"^tokenize: expected .*{says}.*; "):
        model.generate(["Hi"])
    with pytest.raises(ValueError, match=rf"^tokenize: expected .*{says}.*; "):
        with_template(tiny, template).tokenize([TURNS[:2]])
    assert model.tokenize(["Hi"], system="")


def test_a_system_message_that_is_the_templates_own_is_not_called_left_out(tiny: cna.Model) -> None:
    template = (
        "{% if messages[0].role != 'system' %}<system>Be kind.{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    model = with_template(tiny, template)
    assert model.tokenize(["Hi"], system="Be kind.") == model.tokenize(["Hi"])


@pytest.mark.parametrize(
    "talk",
    [
        [],
        [{"role": "narrator", "content": "Hi"}],
        [{"role": "user"}],
        [{"content": "Hi"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": None}],
        [USER, "Hi"],
        ["Hi", USER],
    ],
)
def test_malformed_messages_are_refused(tiny: cna.Model, talk: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"^tokenize: expected .*, got .*; (pass|use|drop) "):
        tiny.tokenize([talk])


def test_a_call_of_a_tool_needs_no_text(tiny: cna.Model) -> None:
    model = with_template(
        tiny,
        "{% for m in messages %}<{{ m.role }}>{{ m.content or m.tool_calls[0].id }}{% endfor %}",
    )
    call = {"role": "assistant", "tool_calls": [{"id": "7"}]}
    talk = [USER, call, {"role": "tool", "content": "noon"}]
    assert model.tokenizer.decode(model.tokenize([talk])[0]) == "<user>Hi<assistant>7<tool>noon"


def test_two_system_messages_are_refused(tiny: cna.Model) -> None:
    with pytest.raises(ValueError, match=r"^tokenize: expected messages without a system message"):
        tiny.tokenize([TURNS], system="Sing.")


@pytest.mark.parametrize(
    "settings",
    [
        {"system": 3},
        {"template_kwargs": "date"},
        {"template_kwargs": {"add_generation_prompt": False}},
        {"template_kwargs": {"tokenize": True}},
    ],
)
def test_settings_that_are_none_are_refused(tiny: cna.Model, settings: dict[str, Any]) -> None:
    for make in (
        lambda: cna.Model(tiny.core, tiny.tokenizer, **settings),
        lambda: tiny.tokenize(["Hi"], **settings),
    ):
        with pytest.raises(ValueError, match=r"^(Model|tokenize): expected .*, got .*; "):
            make()


def test_settings_without_a_template_are_refused(tiny: cna.Model) -> None:
    bare = cna.Model(tiny.core, make_tokenizer(chat=False))
    for settings in ({"system": "Sing."}, {"template_kwargs": {"date": "1 May"}}):
        with pytest.raises(ValueError, match=r"^Model: expected a tokenizer with a chat template"):
            cna.Model(tiny.core, bare.tokenizer, **settings)
        with pytest.raises(
            ValueError, match=r"^tokenize: expected a tokenizer with a chat template"
        ):
            bare.tokenize(["Hi"], **settings)
        for prompts, chat in ((["Hi"], False), ([[1, 2]], None)):
            with pytest.raises(ValueError, match=r"^tokenize: expected texts or messages"):
                tiny.tokenize(prompts, chat, **settings)
    with pytest.raises(ValueError, match="chat template for lists of messages"):
        bare.tokenize([[USER]])
