"""A chat: a conversation with a model, turn by turn, on the keys and values of the earlier turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from .. import _core
from ..base.progress import bar
from .stream import pieces


class Chat:
    """A conversation; made by `Model.chat`.

    Every turn is the whole conversation through the chat template, and its answer that of
    `generate([chat.messages])`. What the text shares with the turns before is not computed again. Where
    steering changes between turns, earlier ones keep what they were: their tokens' keys and values stay
    as they were computed. So with `positions="answer"` every answer is steered and no question is. Hosts
    that run whole prompts (`cache=False`) keep nothing: the steering of the moment acts on all turns.

    Attributes:
        messages: {"role", "content"} of all turns so far, the model's answers included.
        reused: tokens of the last turn's prompt that were not computed again.
    """

    def __init__(
        self,
        model: Any,
        system: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.system, self.template_kwargs = model, system, template_kwargs
        self.messages: list[dict[str, str]] = []
        self._turns = _core.Conversation(model.core)

    @property
    def reused(self) -> int:
        return self._turns.reused

    @property
    def tokens(self) -> list[int]:
        """Tokens whose keys and values are held, empty on a host that keeps none."""
        return list(self._turns.tokens)

    def say(
        self,
        text: str,
        max_new_tokens: int = 64,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        progress: bool = False,
        stream: bool = False,
    ) -> Any:
        """The model's answer to the next message, under the steering that is in force now.

        Args: as in `Model.generate`; stream: an iterator of its pieces, whose turn counts when it has
            been read to the end.
        Raises:
            ValueError: no chat template, a message that it refuses, or a conversation longer than the
                model; `messages` then stays as it was.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        told: dict[str, Any] = {"system": self.system, "template_kwargs": self.template_kwargs}
        ids = self.model.tokenize([asked], True, **told)
        intervention, arms = self.model._steering(1, ids)
        answer = partial(
            self._turns.answer,
            ids[0],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            intervention=intervention,
            arms=arms,
        )
        if stream:
            return self._streamed(answer, asked)
        with bar("chat", progress, "step") as update:
            said = self.model.decode(answer(progress=update))
        self.messages = [*asked, {"role": "assistant", "content": said}]
        return said

    def _streamed(self, answer: Any, asked: list[dict[str, str]]) -> Iterator[str]:
        said = ""
        for piece in pieces(answer, self.model.decode, several=False):
            said += piece
            yield piece
        self.messages = [*asked, {"role": "assistant", "content": said}]

    def clear(self) -> None:
        """Forgets all turns."""
        self.messages = []
        self._turns.clear()
