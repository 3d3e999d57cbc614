"""Tokens: prompts become ids as the model sees them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import _core
from .messages import (
    Message,
    Talk,
    chat_text,
    has_template,
    is_talk,
    require_talk,
)

Prompts = Sequence[str] | Sequence[Sequence[int]] | Sequence[Talk] | Mapping[str, Any]


def uses_chat(tokenizer: Any, chat: bool | None) -> bool:
    """Whether prompts go through the chat template: `chat`, or by default if there is one."""
    has = has_template(tokenizer)
    if chat and not has:
        raise ValueError(
            "tokenize: expected a tokenizer with a chat template, got one without; use chat=False"
        )
    return has if chat is None else chat


def tokenize(
    tokenizer: Any,
    prompts: Any,
    chat: bool | None = None,
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    *,
    demanded: bool = False,
) -> list[list[int]]:
    """Token ids of each prompt; arguments and errors as in `Model.tokenize`.

    demanded: `system` or `template_kwargs` are of this call, so prompts without a template are an error.
    """
    if isinstance(prompts, (str, bytes)):
        raise ValueError(
            "tokenize: expected a list of prompts, got one string; put it in a list: [prompt]"
        )
    if isinstance(prompts, Mapping) or getattr(prompts, "ndim", None) is not None:
        _require_untold(demanded, "a tokenizer's output")
        if isinstance(prompts, Mapping):  # a BatchEncoding too
            return _of_encoding(prompts)
        return _of_array(tokenizer, prompts)
    prompts = list(prompts)
    if not prompts:
        raise ValueError("tokenize: expected at least one prompt, got an empty list; pass prompts")
    if all(isinstance(p, str) for p in prompts):
        if not uses_chat(tokenizer, chat):
            _require_untold(demanded, "raw text")
            return _of_text(tokenizer, prompts)
        talks: list[list[Message]] = [
            [{"role": "user", "content": _with_text(p, i)}] for i, p in enumerate(prompts)
        ]
        return _of_talks(tokenizer, talks, system, template_kwargs)
    if any(isinstance(p, Mapping) for p in prompts):
        raise ValueError(
            "tokenize: expected a list of conversations, got one conversation or an encoding in a list; "
            "put the messages of each prompt in a list of their own"
        )
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, (list, tuple)) and not prompt:
            raise ValueError(
                f"tokenize: expected messages or token ids in every prompt, got an empty list as prompt "
                f"{i}; drop it, or put a message into it"
            )
    if all(is_talk(p) for p in prompts):
        if not uses_chat(tokenizer, chat):
            raise ValueError(
                "tokenize: expected chat=True or a chat template for lists of messages, got neither; "
                "pass text"
            )
        for i, talk in enumerate(prompts):
            require_talk(talk, i)
        return _of_talks(tokenizer, prompts, system, template_kwargs)
    if not any(isinstance(p, (str, bytes)) or is_talk(p) for p in prompts):
        try:
            rows = [_whole_numbers(p) for p in prompts]
        except (TypeError, ValueError):
            pass
        else:
            _require_untold(demanded, "token ids")
            return rows
    names = sorted({type(p).__name__ for p in prompts})
    raise ValueError(
        f"tokenize: expected prompts that are all strings, all lists of token ids or all lists of "
        f"messages, got {', '.join(names)}; use one kind"
    )


def _require_untold(demanded: bool, what: str) -> None:
    if demanded:
        raise ValueError(
            f"tokenize: expected texts or messages for the chat template with system= and "
            f"template_kwargs=, got {what}; leave them out"
        )


def _whole_numbers(prompt: Any) -> list[int]:
    return [operator.index(t) for t in prompt]


def _with_text(prompt: str, i: int) -> str:
    if not prompt.strip():
        raise ValueError(
            f"tokenize: expected text in every prompt, got none in prompt {i}; drop it"
        )
    return prompt


# --- what a tokenizer gave, whole --------------------------------------------------------------------


def _of_encoding(encoding: Mapping[str, Any]) -> list[list[int]]:
    """The real tokens of a tokenizer's output: its mask says which they are."""
    ids, mask = encoding.get("input_ids"), encoding.get("attention_mask")
    if ids is None:
        raise ValueError(
            f"tokenize: expected prompts, or a tokenizer's output with input_ids, got a mapping of "
            f"{', '.join(map(str, encoding)) or 'nothing'}; pass a list of prompts"
        )
    try:
        rows = [_whole_numbers(row) for row in ids]
        real = [[1] * len(row) for row in rows]
        if mask is not None:
            real = [_whole_numbers(row) for row in mask]
        return [
            [int(t) for t in _core.unpad(torch.tensor([row]), torch.tensor([kept]))[0]]
            for row, kept in zip(rows, real, strict=True)
        ]
    except (TypeError, IndexError):
        raise ValueError(
            "tokenize: expected input_ids as one row per prompt, got another shape; pass the output of "
            "tokenizer([prompt, ...])"
        ) from None


def _of_array(tokenizer: Any, ids: Any) -> list[list[int]]:
    """Rows of a tensor or array [prompts, tokens]; padding in it could not be told from text."""
    try:
        rows = [_whole_numbers(row) for row in ids] if ids.ndim == 2 else []
    except TypeError:
        rows = []
    if not rows:
        raise ValueError(
            f"tokenize: expected token ids as whole numbers [prompts, tokens], got "
            f"{ids.dtype} {list(ids.shape)}; pass a list of prompts"
        )
    pad = getattr(tokenizer, "pad_token_id", None)
    if any(row and pad in (row[0], row[-1]) for row in rows):
        raise ValueError(
            f"tokenize: expected prompts without padding, got rows that begin or end with the padding "
            f"token {pad}; pass the tokenizer's whole output, with its attention_mask"
        )
    return rows


# --- text --------------------------------------------------------------------------------------------


def _require_tokenizer(tokenizer: Any) -> None:
    if tokenizer is None:
        raise ValueError(
            "tokenize: expected a model with a tokenizer, got a bare TorchScript file; pass lists "
            "of token ids"
        )


def _of_talks(
    tokenizer: Any,
    talks: Sequence[Sequence[Message]],
    system: str | None,
    template_kwargs: Mapping[str, Any] | None,
) -> list[list[int]]:
    _require_tokenizer(tokenizer)
    texts = [chat_text(tokenizer, talk, system, template_kwargs) for talk in talks]
    # The template writes its own BOS.
    encoded = tokenizer(texts, add_special_tokens=False)
    return [list(ids) for ids in encoded["input_ids"]]


def appended_tokens(tokenizer: Any) -> list[int]:
    """Special tokens that the tokenizer writes behind raw text, such as EOS; none as a rule."""
    whole = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[start + len(bare) :]
    eos = getattr(tokenizer, "eos_token_id", None)
    return [eos] if whole and eos is not None and whole[-1] == eos else []


def _of_text(tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    _require_tokenizer(tokenizer)
    encoded = tokenizer([_with_text(p, i) for i, p in enumerate(prompts)])
    # Behind an end token nothing is left to answer, and it is not what the prompt ends with.
    end = appended_tokens(tokenizer)
    rows = [list(ids) for ids in encoded["input_ids"]]
    return [row[: -len(end)] if end and row[-len(end) :] == end else row for row in rows]
