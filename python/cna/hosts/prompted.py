"""What a model makes of prompts: its tokenizer, its chat template, and what that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import tokens
from .messages import require_settings
from .source import template_sha256
from .tokens import Prompts


class Prompted:
    """The side of a `Model` that people talk to.

    Attributes:
        tokenizer: the Hugging Face tokenizer, or None without one.
        system: the system message of every chat prompt that has none of its own, or None.
        template_kwargs: further arguments of the chat template, such as a date to write.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        system: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        require_settings("Model", tokenizer, system, template_kwargs)
        self.tokenizer = tokenizer
        self.system = system
        self.template_kwargs = dict(template_kwargs or {})

    def chat_template_sha256(self, chat: bool | None = None) -> str | None:
        """For provenance: of the template and what it is told; None where prompts are raw text."""
        if not self.uses_chat(chat):
            return None
        return template_sha256(self.tokenizer, self.system, self.template_kwargs)

    def uses_chat(self, chat: bool | None) -> bool:
        """Whether prompts go through the chat template: `chat`, or by default if there is one."""
        return tokens.uses_chat(self.tokenizer, chat)

    def tokenize(
        self,
        prompts: Prompts,
        chat: bool | None = None,
        *,
        system: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[list[int]]:
        """Token ids of each prompt as the model sees it, without padding.

        Args:
            prompts: user messages; or lists of messages, {"role": ..., "content": ...}, the last one to
                be answered, or continued where it is the assistant's; or lists of token ids, which
                pass through unchanged; or a tokenizer's output, whose mask says what is padding.
            chat: None applies the tokenizer's chat template where it has one (with the generation
                prompt), False feeds raw text, True demands a template. A template writes its own BOS;
                what a tokenizer appends to raw text, such as EOS, is left off.
            system, template_kwargs: of this call: another system message than the model's ("" for
                none), and arguments of the chat template beside the model's.
        Raises:
            ValueError: a single string, an empty list, an empty prompt, an unequal mix of types, a
                padded tensor without its mask; messages that are malformed or that the template
                refuses; a system message that it leaves out, or that the messages have already.
        """
        demanded = system is not None or template_kwargs is not None
        if demanded:
            require_settings("tokenize", self.tokenizer, system, template_kwargs)
        system = self.system if system is None else system
        told = {**self.template_kwargs, **(template_kwargs or {})}
        return tokens.tokenize(self.tokenizer, prompts, chat, system, told, demanded=demanded)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, special tokens skipped."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)
