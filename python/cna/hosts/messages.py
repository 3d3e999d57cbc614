"""Messages: a prompt as people send it, and the text that a chat template makes of it.

A prompt is a list of messages, {"role": "system" | "developer" | "user" | "assistant" | "tool",
"content": ...}; the last one is what is answered. A text is one message of a user. A list that ends in
an assistant's message is continued where that message ends. What a template is told beside the messages,
a system message and arguments of its own (dates, `enable_thinking`, `tools`), belongs to the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import first_line

Message = Mapping[str, Any]  # {"role": ..., "content": ...}
Talk = Sequence[Message]
ROLES = ("system", "developer", "user", "assistant", "tool")

# What `apply_chat_template` is told here; a template gets everything else.
_OURS = frozenset(
    "add_generation_prompt continue_final_message conversation max_length padding return_dict "
    "return_assistant_tokens_mask return_tensors tokenize tokenizer_kwargs truncation".split()
)


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def is_talk(prompt: Any) -> bool:
    """Whether a prompt is a list that holds a message."""
    return isinstance(prompt, (list, tuple)) and any(isinstance(m, Mapping) for m in prompt)


def require_talk(talk: Sequence[Any], place: int) -> None:
    """Raises ValueError for a prompt that is no list of messages; `place` is its number."""
    for number, message in enumerate(talk):
        where = f"message {number} of prompt {place}"
        calls = isinstance(message, Mapping) and bool(message.get("tool_calls"))  # and says nothing
        if (
            not isinstance(message, Mapping)
            or "role" not in message
            or ("content" not in message and not calls)
        ):
            got = list(message) if isinstance(message, Mapping) else type(message).__name__
            raise ValueError(
                f"tokenize: expected a role and a content in every message, got {got} as {where}; "
                'pass {"role": "user", "content": "..."}'
            )
        role, content = message["role"], message.get("content")
        if role not in ROLES:
            raise ValueError(
                f"tokenize: expected a role of {', '.join(ROLES)}, got {role!r} in {where}; use one of "
                "these"
            )
        parts = isinstance(content, (list, tuple)) and all(isinstance(p, Mapping) for p in content)
        if not isinstance(content, str) and not parts and not (content is None and calls):
            raise ValueError(
                f"tokenize: expected a text as content, got {type(content).__name__} in {where}; pass "
                "the text"
            )


def question(prompt: str | Talk) -> str:
    """The text that is answered: a prompt's own, or that of the last message of a user."""
    if isinstance(prompt, str):
        return prompt
    asked = [message for message in prompt if message["role"] == "user"]
    return _text(asked[-1]) if asked else ""


def as_text(prompt: str | Talk) -> str:
    """A prompt for tables and pages: its text, or of several messages a line for each."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return _text(prompt[0])
    return "\n".join(f"{message['role']}: {_text(message)}" for message in prompt)


def behind(instruction: str, prompt: str | Talk) -> Any:
    """The same prompt with an instruction before the text that is answered; "" changes nothing."""
    if not instruction:
        return prompt
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    out = list(prompt)
    for place in reversed(range(len(out))):
        if out[place]["role"] == "user":
            out[place] = {**out[place], "content": f"{instruction}\n\n{_text(out[place])}"}
            return out
    raise ValueError(
        "tokenize: expected a user's message to put an instruction before, got messages without one; "
        "add one"
    )


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def require_settings(
    function: str,
    tokenizer: Any,
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Raises ValueError for settings of a chat template that are none, or have no template to go to."""
    if system is not None and not isinstance(system, str):
        raise ValueError(
            f"{function}: expected a text as system=, got {type(system).__name__}; pass a string"
        )
    if template_kwargs is not None and not isinstance(template_kwargs, Mapping):
        raise ValueError(
            f"{function}: expected a mapping as template_kwargs=, got "
            f"{type(template_kwargs).__name__}; pass a dict of the template's arguments"
        )
    if taken := sorted(_OURS & set(template_kwargs or {})):
        raise ValueError(
            f"{function}: expected arguments of the chat template in template_kwargs=, got {taken[0]}, "
            "which cna sets itself; leave it out"
        )
    if (system or template_kwargs) and not has_template(tokenizer):
        raise ValueError(
            f"{function}: expected a tokenizer with a chat template for system= and template_kwargs=, "
            "got one without; leave them out, or use a chat model"
        )


def chat_text(
    tokenizer: Any,
    talk: Talk,
    system: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Messages as the chat template writes them, with the generation prompt or the answer begun.

    Args:
        system: a text put in front as the system message; None or "" for none.
    Raises:
        ValueError: the template refuses them, or would leave out the system message; a second one.
    """
    if system:
        if any(message["role"] == "system" for message in talk):
            raise ValueError(
                "tokenize: expected messages without a system message where system= is given, got one "
                "with; leave out one of them"
            )
        talk = [{"role": "system", "content": system}, *talk]
    text = _rendered(tokenizer, talk, template_kwargs)
    first = talk[0]
    if first["role"] == "system" and isinstance(first["content"], str) and first["content"]:
        other = [{**first, "content": first["content"] + "."}, *talk[1:]]
        if _rendered(tokenizer, other, template_kwargs) == text:
            raise ValueError(
                "tokenize: expected a chat template that knows the role system, got one that leaves "
                "its message out; write the text into the user's message"
            )
    return text


def _rendered(tokenizer: Any, talk: Talk, template_kwargs: Mapping[str, Any] | None) -> str:
    begun = talk[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            list(talk),
            tokenize=False,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            **(template_kwargs or {}),
        )
    except Exception as error:  # jinja2's, or whatever the template's own code raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        if begun:
            raise ValueError(
                "tokenize: expected a chat template that can continue the assistant's message which "
                f"comes last, got {reason}; pass messages that end with the user's"
            ) from None
        raise ValueError(
            f"tokenize: expected messages that the chat template takes, got {reason}; pass system=, "
            "template_kwargs= or other roles, or use chat=False"
        ) from None
    return str(text)
