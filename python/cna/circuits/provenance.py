"""Provenance: what a circuit says about the model, the prompts and the filter it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import _core
from ..base.hashes import hash_of
from ..hosts.about import about_model
from ..hosts.model import Model

if TYPE_CHECKING:
    from .universal import UniversalNeurons


def prompt_hash(*sets: Sequence[Sequence[int]]) -> str:
    """16 hex digits by which sets of prompts, as token ids, are known again."""
    return _core.prompt_hash([list(prompts) for prompts in sets])


def circuit_hash(circuit: _core.Circuit) -> str:
    """16 hex digits of a circuit's shape and neurons; deltas, whose last bits vary, do not count."""
    return hash_of(list(circuit.shape), sorted((n.layer, n.index) for n in circuit.neurons))


def with_prompt_provenance(
    circuit: _core.Circuit,
    model: Model,
    sides: tuple[list[list[int]], list[list[int]]],
    removed: UniversalNeurons | None,
    templated: bool,
) -> _core.Circuit:
    """The circuit with the hashes of its prompts (token ids), chat template and universal filter.

    Args:
        templated: whether the prompts went through the chat template; token ids did not.
    """
    about = about_model(model)
    if not templated:
        about["chat_template_sha256"] = None
    return circuit.with_provenance(
        prompt_hash=prompt_hash(*sides),
        **about,
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
