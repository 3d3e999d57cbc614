"""Universal neurons, counted by all processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from .. import _core
from ..base.progress import bar
from ..circuits.provenance import prompt_hash
from ..circuits.universal import UniversalNeurons
from ..hosts.model import Model
from ..hosts.shard import require_all_ranks
from ..hosts.tokens import Prompts
from ..prompts.readers import universal_prompts
from .chunks import Shards, identity, run_shards, split
from .ranks import group


def universal_neurons_distributed(
    model: Model,
    prompts: Prompts | None = None,
    *,
    share: float = 0.8,
    top_fraction: float = 0.001,
    chat: bool | None = None,
    batch_size: int = 64,
    chunk: int = 16,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> UniversalNeurons | None:
    """As `cna.universal_neurons`, counted by all processes; the result is on rank 0.

    Raises:
        ValueError: fewer than 10 prompts, or shares outside (0, 1].
        RuntimeError: a rank was lost (it is named).
    """
    require_all_ranks(model, "universal_neurons")
    ids = model.tokenize(universal_prompts() if prompts is None else prompts, chat)
    least = _core.universal_threshold(len(ids), share)
    n = -(-len(ids) // chunk)
    cuts = split(len(ids), n)

    intervention, _ = model._steering(1)
    if resume is not None and model._stack():
        raise ValueError(
            "universal_neurons: expected an unsteered model with resume=, got a steered one; leave "
            "the steer block, or do not resume"
        )

    def compute(i: int) -> Tensor:
        counter = model.core.count_universal(
            ids[cuts[i]], top_fraction, intervention=intervention, batch_rows=batch_size
        )
        return counter.counts.reshape(-1).double()

    key = identity(model, ids, n, top_fraction)
    shards = Shards(Path(resume) if resume is not None else None, "universal", key, n)
    size = model.n_layers * model.width
    total = torch.zeros(size, dtype=torch.float64)
    with (
        group("universal") as processes,
        bar("universal neurons", progress and processes.rank == 0, "chunk") as update,
    ):
        for values in run_shards(processes, shards, size, compute, update):
            total += values
        if processes.rank != 0:
            return None
    hits = (total.reshape(model.n_layers, model.width) >= least).nonzero().tolist()
    neurons = tuple((int(i), int(j)) for i, j in hits if j < model.widths[i])
    return UniversalNeurons(neurons, len(ids), share, top_fraction, prompt_hash(ids))
