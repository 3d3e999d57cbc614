"""Contexts: where in given texts each neuron of a circuit is strongest and weakest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core
from ..circuits.recording import record_tokens
from ..hosts.model import Model

BEFORE, AFTER = 8, 4  # tokens around one that is shown
_TEXTS = Path(__file__).parent.parent / "prompts" / "data" / "texts.txt"


def default_texts() -> list[str]:
    """The bundled texts: short, harmless, of many kinds; one a line."""
    return _TEXTS.read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class Context:
    """A token on which a neuron has this activation, with what stands around it."""

    activation: float
    before: str
    token: str
    after: str
    text: int  # its number among the texts

    def __str__(self) -> str:
        return f"{self.activation:+.3g} {self.before}[{self.token}]{self.after}"


def contexts(
    model: Model,
    circuit: _core.Circuit,
    texts: Sequence[str],
    n: int,
    *,
    chat: bool | None = False,
    batch_size: int = 64,
    progress: bool = True,
) -> list[tuple[list[Context], list[Context]]]:
    """Of each neuron, in the circuit's order, its n strongest and n weakest tokens over the texts.

    Strongest: the largest activations; weakest: the smallest, which are the most negative ones. A text
    gives each neuron one token of either kind at most, so that one repeated word does not fill a card;
    its first token is left out, on which many neurons have values of their own.
    """
    ids = model.tokenize(list(texts), chat)
    best: list[tuple[list[Any], list[Any]]] = [([], []) for _ in circuit]

    def keep(text: int, activations: Any) -> None:
        seen = activations[1:] if len(activations) > 1 else activations
        offset = len(activations) - len(seen)
        for sign, side in ((1.0, 0), (-1.0, 1)):
            values, places = (sign * seen).max(0)
            for j, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
                entry = (value, -text, place + offset)
                heap = best[j][side]
                if len(heap) < n:
                    heapq.heappush(heap, entry)
                else:
                    heapq.heappushpop(heap, entry)

    record_tokens(model, ids, circuit, batch_size=batch_size, progress=progress, sink=keep)

    def shown(entry: Any, sign: float) -> Context:
        value, text, place = sign * entry[0], -entry[1], entry[2]
        row = ids[text]
        before, after = row[max(0, place - BEFORE) : place], row[place + 1 : place + 1 + AFTER]
        left, token, right = (model.decode(x) if x else "" for x in (before, [row[place]], after))
        return Context(value, left, token, right, text)

    return [
        (
            [shown(e, 1.0) for e in sorted(strong, reverse=True)],
            [shown(e, -1.0) for e in sorted(weak, reverse=True)],
        )
        for strong, weak in best
    ]
