"""Discovery by all processes: the same circuit with any number of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .. import _core
from ..circuits.form import two_sets
from ..circuits.provenance import with_prompt_provenance
from ..circuits.selection import layer_range, require_ranking, select
from ..circuits.size import circuit_size
from ..circuits.universal import UniversalNeurons, universal_filter
from ..hosts.model import Model
from ..hosts.shard import require_all_ranks
from ..hosts.tokens import Prompts
from .moments import contrast_distributed
from .ranks import group
from .universal import universal_neurons_distributed


def discover_distributed(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    fraction: float = 0.001,
    k: int | None = None,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    ranking: str = "mean_difference",
    side: str | None = None,
    layers: Sequence[int] | range | None = None,
    batch_size: int = 64,
    chunk: int = 64,
    share_prefix: bool = True,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> _core.Circuit | None:
    """As `cna.discover`, by all processes of this run; the circuit on rank 0, None on the others.

    Every rank calls it with the same arguments. The circuit does not depend on the number of
    processes; its deltas agree with `cna.discover` to float32 rounding (prefixes are shared
    chunk by chunk).

    Args:
        ranking, side, layers: as there, but for rankings that need the model's weights.
        chunk: prompts of the larger set in one chunk.
        resume: folder, shared by all processes, that keeps finished chunks; a killed run goes on
            from them, also with another number of processes.
    Raises:
        ValueError: as `cna.discover`, or steering together with `resume`.
        RuntimeError: a rank was lost; the message names it.
    """
    require_all_ranks(model, "discover")
    circuit_size(model.n_neurons, fraction, k)
    require_ranking(ranking)
    bounds = layer_range(layers, model.n_layers)
    sets = two_sets(model, positive, negative, chat)
    with group("discover") as processes:
        removed = universal_filter(
            universal,
            lambda: universal_neurons_distributed(
                model, chat=sets.chat, batch_size=batch_size, resume=resume, progress=progress
            ),
        )
        moments = contrast_distributed(
            model,
            *sets.sides,
            batch_size=batch_size,
            chunk=chunk,
            share_prefix=share_prefix,
            resume=resume,
            progress=progress,
        )
        if processes.rank != 0 or moments is None:
            return None
        how: dict[str, Any] = {"ranking": ranking, "side": side, "layers": bounds}
        circuit = select(model, moments, removed, fraction=fraction, k=k, **how)
        return with_prompt_provenance(circuit, model, sets.sides, removed, sets.templated)


def share_circuit(circuit: _core.Circuit | None) -> _core.Circuit:
    """Rank 0's circuit on every rank."""
    with group("discover") as processes:
        text = processes.share(circuit.to_json() if circuit is not None else None)
    return _core.Circuit.from_json(text) if circuit is None else circuit
