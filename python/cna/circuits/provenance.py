"""Provenance: what a circuit says about the prompts and the filter it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _core
from ..hosts.model import Model

if TYPE_CHECKING:
    from .universal import UniversalNeurons


def prompt_hash(*sets: Sequence[Sequence[int]]) -> str:
    """16 hex digits by which sets of prompts, as token ids, are known again."""
    return _core.prompt_hash([list(prompts) for prompts in sets])


def with_prompt_provenance(
    circuit: _core.Circuit,
    model: Model,
    sides: tuple[list[list[int]], list[list[int]]],
    removed: UniversalNeurons | None,
    chat: bool | None,
) -> _core.Circuit:
    """The circuit with the hashes of its prompts (token ids), chat template and universal filter.

    Steering that was active while it was found is named too.
    """
    steering = model.active_steering()
    template = getattr(model.tokenizer, "chat_template", None) if model.uses_chat(chat) else None
    return circuit.with_provenance(
        **({"steering": steering} if steering else {}),
        prompt_hash=prompt_hash(*sides),
        chat_template_sha256=(
            hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None
        ),
        universal_filter=(
            None
            if removed is None
            else {
                "prompts": removed.n_prompts,
                "share": removed.share,
                "top_fraction": removed.top_fraction,
                "prompt_hash": removed.prompt_hash,
                "neurons": len(removed),
            }
        ),
    )
