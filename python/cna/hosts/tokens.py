"""Tokens: prompts become ids as the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Prompts = Sequence[str] | Sequence[Sequence[int]]


def uses_chat(tokenizer: Any, chat: bool | None) -> bool:
    """Whether prompts go through the chat template: `chat`, or by default if there is one."""
    has = bool(getattr(tokenizer, "chat_template", None))
    if chat and not has:
        raise ValueError(
            "tokenize: expected a tokenizer with a chat template, got one without; use chat=False"
        )
    return has if chat is None else chat


def tokenize(tokenizer: Any, prompts: Prompts, chat: bool | None = None) -> list[list[int]]:
    """Token ids of each prompt; arguments and errors as in `Model.tokenize`."""
    if isinstance(prompts, (str, bytes)):
        raise ValueError(
            "tokenize: expected a list of prompts, got one string; put it in a list: [prompt]"
        )
    prompts = list(prompts)  # type: ignore[assignment]
    if not prompts:
        raise ValueError("tokenize: expected at least one prompt, got an empty list; pass prompts")
    kinds = {isinstance(p, str) for p in prompts}
    if kinds == {True}:
        return _of_text(tokenizer, prompts, uses_chat(tokenizer, chat))  # type: ignore[arg-type]
    if kinds == {False}:
        try:
            return [[int(t) for t in p] for p in prompts]
        except (TypeError, ValueError):
            pass
    names = sorted({type(p).__name__ for p in prompts})
    raise ValueError(
        f"tokenize: expected prompts that are all strings or all lists of token ids, got "
        f"{', '.join(names)}; use one kind"
    )


def _of_text(tokenizer: Any, prompts: list[str], chat: bool) -> list[list[int]]:
    if tokenizer is None:
        raise ValueError(
            "tokenize: expected a model with a tokenizer, got a bare TorchScript file; pass lists "
            "of token ids"
        )
    for i, prompt in enumerate(prompts):
        if not prompt.strip():
            raise ValueError(
                f"tokenize: expected text in every prompt, got none in prompt {i}; drop it"
            )
    if chat:
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True
            )
            for p in prompts
        ]
        # The template writes its own BOS.
        encoded = tokenizer(texts, add_special_tokens=False)
    else:
        encoded = tokenizer(prompts)
    return [list(ids) for ids in encoded["input_ids"]]
