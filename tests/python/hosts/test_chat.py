"""Chats: every turn against the whole conversation in one prompt, and what steering leaves behind."""

from __future__ import annotations

from typing import Any

import cna
import pytest
import torch
from conftest import hf_generate, make_hf, make_tokenizer
from live_oracle import close

ASKED = ["Name a red fruit.", "And a green one?", "Which is sweeter?"]


@pytest.fixture(scope="module")
def hf() -> Any:
    return make_hf("llama")


@pytest.fixture(scope="module")
def model(hf: Any) -> cna.Model:
    return cna.live(hf, make_tokenizer())


@pytest.fixture(scope="module")
def circuit(model: cna.Model) -> cna.Circuit:
    return cna.discover(model, ASKED[:1], ASKED[1:], k=20, universal=None, progress=False)


def test_every_turn_is_the_answer_to_the_whole_conversation(hf: Any, model: cna.Model) -> None:
    chat = model.chat(system="Be brief.")
    ids: list[int] = []
    for turn, text in enumerate(ASKED):
        said = chat.say(text, max_new_tokens=7)
        talk = [{"role": "system", "content": "Be brief."}, *chat.messages[:-1]]
        (ids,) = model.tokenize([talk])
        assert said == model.decode(hf_generate(hf, ids, 7))
        assert said == model.generate([talk], max_new_tokens=7, progress=False)[0]
        assert chat.messages[-1] == {"role": "assistant", "content": said}
        assert chat.reused == 0 if turn == 0 else 0 < chat.reused < len(ids)
        assert chat.tokens[: len(ids)] == ids
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 3
    chat.clear()
    assert chat.messages == [] and chat.tokens == [] and chat.reused == 0


def test_an_export_chats_as_the_live_model(exports: Any, model: cna.Model) -> None:
    exported = cna.load(exports("llama"))
    here, there = model.chat(), exported.chat()
    for text in ASKED:
        assert there.say(text, max_new_tokens=5) == here.say(text, max_new_tokens=5)
    assert there.reused == here.reused > 0


def test_sampled_turns_are_those_of_generate(model: cna.Model) -> None:
    chat = model.chat()
    how = {"temperature": 1.5, "top_k": 40, "seed": 5, "max_new_tokens": 6}
    for text in ASKED[:2]:
        said = chat.say(text, **how)
        assert said == model.generate([chat.messages[:-1]], **how, progress=False)[0]


def test_only_what_is_new_is_computed(hf: Any, model: cna.Model) -> None:
    chat = model.chat()
    chat.say(ASKED[0], max_new_tokens=5)
    seen: list[int] = []
    hook = hf.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            (args[0] if args else kwargs["hidden_states"]).shape[1]
        ),
        with_kwargs=True,
    )
    chat.say(ASKED[1], max_new_tokens=5)
    hook.remove()
    (ids,) = model.tokenize([chat.messages[:-1]])
    assert seen[0] == len(ids) - chat.reused and seen[1:] == [1] * (len(seen) - 1)


def test_steering_throughout_is_steering_of_the_whole_prompt(
    model: cna.Model, circuit: cna.Circuit
) -> None:
    chat = model.chat()
    with model.steer(circuit, -2.0):
        for text in ASKED:
            said = chat.say(text, max_new_tokens=6)
            assert said == model.generate([chat.messages[:-1]], 6, progress=False)[0]


def plain_chat(
    hf: Any, ids: list[int], more: list[int], scaled: tuple[bool, bool], circuit: cna.Circuit
) -> torch.Tensor:
    """Logits behind ids and more, where the first and the second part each run steered or not."""
    on = [False]

    def before(layer: int) -> Any:
        places = [n.index for n in circuit if n.layer == layer]

        def hook(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not on[0]:
                return None
            x = args[0].clone()
            x[..., places] *= -2.0
            return (x, *args[1:])

        return hook

    hooks = [
        block.mlp.down_proj.register_forward_pre_hook(before(layer))
        for layer, block in enumerate(hf.model.layers)
    ]
    cache, out = None, None
    with torch.no_grad():
        for part, steered in zip((ids, more), scaled, strict=True):
            on[0] = steered
            out = hf(torch.tensor([part]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
    for hook in hooks:
        hook.remove()
    assert out is not None
    return out.logits[0, -1]


def test_steering_of_earlier_turns_stays_in_their_keys_and_values(
    hf: Any, model: cna.Model, circuit: cna.Circuit
) -> None:
    """A turn that ran steered speaks on in the next one, which is not steered any more."""
    chat = model.chat()
    with model.steer(circuit, -2.0):
        chat.say(ASKED[0], max_new_tokens=6)
    held = chat.tokens
    said = chat.say(ASKED[1], max_new_tokens=1)
    (ids,) = model.tokenize([chat.messages[:-1]])
    kept = chat.reused
    assert held[:kept] == ids[:kept] and 0 < kept < len(ids)
    left = plain_chat(hf, ids[:kept], ids[kept:], (True, False), circuit)
    never = plain_chat(hf, ids[:kept], ids[kept:], (False, False), circuit)
    assert not close(left, never, 1e-2)
    assert said == model.decode([int(left.argmax())])


def test_positions_answer_across_turns_steers_every_answer_and_no_question(
    hf: Any, model: cna.Model, circuit: cna.Circuit
) -> None:
    chat = model.chat()
    with model.steer(circuit, -2.0, positions="answer"):
        first = chat.say(ASKED[0], max_new_tokens=6)
        (asked,) = model.tokenize([chat.messages[:-1]])
        said = chat.say(ASKED[1], max_new_tokens=1)
    with model.steer(circuit, -2.0, positions="answer"):
        assert first == model.generate([ASKED[0]], 6, progress=False)[0]
    (ids,) = model.tokenize([chat.messages[:-1]])
    kept = chat.reused
    # Unsteered up to the question's last token, steered from there to the end of the answer, the next
    # question unsteered but for its last token.
    parts = [asked[:-1], ids[len(asked) - 1 : kept], ids[kept:-1], ids[-1:]]
    cache, logits = None, None
    on = [False]
    hooks = []
    for layer, block in enumerate(hf.model.layers):
        places = [n.index for n in circuit if n.layer == layer]

        def hook(_: Any, args: Any, places: list[int] = places) -> Any:
            x = args[0].clone()
            if on[0]:
                x[..., places] *= -2.0
            return (x, *args[1:])

        hooks.append(block.mlp.down_proj.register_forward_pre_hook(hook))
    with torch.no_grad():
        for i, part in enumerate(p for p in parts if p):
            on[0] = i % 2 == 1
            out = hf(torch.tensor([part]), past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1]
    for h in hooks:
        h.remove()
    assert logits is not None and said == model.decode([int(logits.argmax())])


def test_a_host_without_a_cache_answers_whole_prompts(hf: Any, circuit: cna.Circuit) -> None:
    model = cna.live(hf, make_tokenizer(), cache=False)
    chat = model.chat()
    for text in ASKED[:2]:
        said = chat.say(text, max_new_tokens=4)
        assert said == model.generate([chat.messages[:-1]], 4, progress=False)[0]
    assert chat.tokens == [] and chat.reused == 0
    with model.steer(circuit, 0.0, positions="answer"):
        with pytest.raises(ValueError, match=r"^chat: expected steering of every token on a model"):
            chat.say(ASKED[2])
    assert len(chat.messages) == 4


def test_a_turn_that_fails_leaves_the_conversation_as_it_was(hf: Any, model: cna.Model) -> None:
    chat = model.chat()
    first = chat.say(ASKED[0], max_new_tokens=4)
    with pytest.raises(ValueError, match=r"^chat: expected"):
        chat.say("x" * 400, max_new_tokens=4)
    with pytest.raises(ValueError, match=r"^chat: expected max_new_tokens from 1"):
        chat.say("hm", max_new_tokens=0)
    assert [m["content"] for m in chat.messages] == [ASKED[0], first]
    said = chat.say(ASKED[1], max_new_tokens=4)
    assert said == model.generate([chat.messages[:-1]], 4, progress=False)[0]
    with pytest.raises(ValueError, match="chat"):
        cna.live(hf, None).chat().say("hello")
