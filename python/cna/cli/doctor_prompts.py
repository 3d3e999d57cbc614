"""The doctor's checks of the tokenizer: how prompts begin and end, and what the template makes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from .. import _core
from ..base.errors import first_line
from ..hosts.messages import chat_text
from ..hosts.source import template_sha256
from ..hosts.tokens import appended_tokens
from .doctor_patient import Check, Patient, read_manifest, skip


def _leading(ids: Sequence[int], bos: int) -> int:
    return next((i for i, token in enumerate(ids) if token != bos), len(ids))


def one_bos(p: Patient) -> Check:
    name = "one BOS"
    bos = getattr(p.tokenizer, "bos_token_id", None)
    if bos is None:
        return skip(name, "the tokenizer has none")
    raw = {_leading(ids, bos) for ids in p.model.tokenize(p.messages, chat=False)}
    chat = {_leading(ids, bos) for ids in p.ids} if p.model.uses_chat(None) else raw
    fix = "let either the chat template or the tokenizer write it: mend tokenizer_config.json"
    if max(raw | chat) > 1:
        return Check(name, False, f"prompts begin with {max(raw | chat)} of token {bos}", fix)
    if raw == {1} and chat != {1}:
        return Check(name, False, "raw text gets one, the chat template writes none", fix)
    return Check(name, True, f"chat prompts begin with {max(chat)}, raw text with {max(raw)}")


def prompt_end(p: Patient) -> Check:
    name = "prompts end with text"
    if p.tokenizer is None:
        return skip(name, "no tokenizer")
    end = appended_tokens(p.tokenizer)
    if not end:
        return Check(name, True, "nothing is written behind a prompt")
    detail = f"the tokenizer writes {end} behind raw text; cna leaves it off"
    if any(ids[-len(end) :] == end for ids in p.model.tokenize(p.messages, chat=False)):
        return Check(name, False, detail, "set add_eos_token to false in tokenizer_config.json")
    return Check(name, True, detail)


def chat_template(p: Patient) -> Check:
    name = "chat template"
    if p.tokenizer is None:
        return skip(name, "no tokenizer")
    template = getattr(p.tokenizer, "chat_template", None)
    if not template:
        fix = "if it is a base model, pass chat=False; else add its chat_template to the tokenizer"
        return Check(name, False, "none", fix)
    expected = read_manifest(p.model.path).get("chat_template_sha256")
    if expected:
        if template_sha256(p.tokenizer) != expected:
            fix = "export the model again, so that circuits name the template they were found with"
            return Check(name, False, "another one than at export", fix)
    now = datetime.datetime.now()
    talk = [{"role": "user", "content": p.messages[0]}]
    settings = p.model.system, p.model.template_kwargs
    texts = [chat_text(p.tokenizer, talk, *settings) for _ in range(2)]
    if p.messages[0] not in texts[0]:
        return Check(
            name, False, "it leaves out or changes the user's message", "mend the template"
        )
    dates = [now.strftime(form) for form in ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y")]
    if texts[0] != texts[1] or any(date in texts[0] for date in dates):
        fix = (
            "circuits found today must hold tomorrow: fix it, such as template_kwargs="
            "{'date_string': '26 Jul 2024'} in cna.load, or a date written into the template"
        )
        return Check(name, False, "prompts depend on the date or on chance", fix)
    return Check(name, True, "present and stable")


def padding_sides(p: Patient) -> Check:
    name = "padding sides"
    if p.tokenizer is None:
        return skip(name, "no tokenizer")
    if getattr(p.tokenizer, "pad_token_id", None) is None:
        return skip(name, "the tokenizer has no pad token; cna needs none")
    before = p.tokenizer.padding_side
    try:
        for side in ("left", "right"):
            p.tokenizer.padding_side = side
            padded = p.tokenizer.pad({"input_ids": p.ids}, return_tensors="pt")
            rows = _core.unpad(padded["input_ids"], padded["attention_mask"])
            if [list(row) for row in rows] != p.ids:
                fix = "mend the tokenizer's pad(): its attention_mask must name the real tokens"
                return Check(name, False, f"padding on the {side} changes the prompts", fix)
    except (ValueError, RuntimeError) as error:
        return Check(name, False, first_line(error), "mend the tokenizer's pad()")
    finally:
        p.tokenizer.padding_side = before
    return Check(name, True, "left and right give the same prompts")


def end_token(p: Patient) -> Check:
    name = "EOS"
    ids = list(p.model.core.eos_ids)
    fix = "set eos_token_id in the model's generation_config and export it again"
    if not ids:
        return Check(name, False, "none: answers never end", fix)
    if p.model.vocab_size and not all(0 <= i < p.model.vocab_size for i in ids):
        return Check(name, False, f"{ids} lie outside the vocabulary", fix)
    own = getattr(p.tokenizer, "eos_token_id", None)
    if own is not None and own not in ids:
        return Check(name, False, f"the tokenizer ends with {own}, the model with {ids}", fix)
    return Check(name, True, f"token {', '.join(map(str, ids))}")
