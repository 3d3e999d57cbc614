"""The numbers of neuron cards: on two sets of prompts, of each one's ablation, and what it writes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..circuits.contribution import contributions
from ..circuits.recording import record_tokens
from ..hosts.model import Model
from ..measure.divergence import divergence
from ..prompts.tasks import Task
from .recordings import Recordings, record_sets
from .stability import stability as stability_of
from .token_reads import rows_read

Floats = NDArray[np.float64]
_PROMPTS, _TOKENS = (
    8,
    8,
)  # positive prompts, and tokens of their answers, that an ablation is tried on


def written(
    model: Model, circuit: _core.Circuit, n: int
) -> list[tuple[list[tuple[str, float]], list[tuple[str, float]]]]:
    """(raised, lowered) of each neuron: its n tokens of either kind, with their logits a unit."""
    try:
        logits = model.core.logits_written(circuit)
    except RuntimeError:  # the host does not know its weights
        return [([], []) for _ in circuit]

    return [
        (_named(model, *row.topk(n)), _named(model, *row.topk(n, largest=False))) for row in logits
    ]


def _named(model: Model, values: Any, places: Any) -> list[tuple[str, float]]:
    names = [model.decode([i]) if model.tokenizer else str(i) for i in places.tolist()]
    return list(zip(names, values.tolist(), strict=True))


def read(
    model: Model, circuit: _core.Circuit, n: int
) -> list[tuple[list[tuple[str, float]], list[tuple[str, float]]]]:
    """(gate, up) of each neuron: the n tokens that either row reads most; empty in later layers."""
    rows = rows_read(model, circuit)
    return [
        (_named(model, *rows[rank][0].topk(n)), _named(model, *rows[rank][1].abs().topk(n)))
        if rank in rows
        else ([], [])
        for rank in range(len(circuit))
    ]


def sides(
    model: Model, circuit: _core.Circuit, task: Task | None, batch_size: int, progress: bool
) -> tuple[Floats, Floats]:
    """Activations of the circuit at the last token, [prompts, neurons] of either set."""
    if task is None:
        none = np.zeros((0, len(circuit)))
        return none, none
    sides = []
    for prompts in (task.positive, task.negative):
        rows = record_tokens(
            model, prompts, circuit, chat=task.chat, batch_size=batch_size, progress=progress
        )
        sides.append(np.stack([row[-1].double().numpy() for row in rows]))
    return sides[0], sides[1]


def numbers(
    model: Model,
    circuit: _core.Circuit,
    task: Task | None,
    sides: tuple[Floats, Floats],
    ablation: bool,
    n_bootstrap: int,
    batch_size: int,
    progress: bool,
) -> dict[str, list[float | None]]:
    """By name, one number a neuron; without a task only the deltas."""
    out: dict[str, list[float | None]] = {"delta": [neuron.delta for neuron in circuit]}
    if task is None:
        return out
    positive, negative = sides
    out["mean_positive"], out["mean_negative"] = (
        positive.mean(0).tolist(),
        negative.mean(0).tolist(),
    )
    out["effect_size"] = _effect_size(positive, negative).tolist()
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    try:
        scores = contributions(model, task.positive, task.negative, chat=task.chat, **options)
        out["contribution"] = [float(scores[x.layer, x.index]) for x in circuit]
    except RuntimeError:
        out["contribution"] = [None] * len(circuit)
    if ablation:
        out["ablation_kl"] = _ablations(model, circuit, task, batch_size, progress)
    if n_bootstrap:
        sets: Recordings = record_sets(
            model, task.positive, task.negative, chat=task.chat, **options
        )
        found_with = int(circuit.provenance.get("k") or len(circuit))  # a part has fewer
        drawn = stability_of(sets, k=found_with, n_bootstrap=n_bootstrap, n_halves=0)
        table = drawn.table.set_index(["layer", "index"])["frequency"]
        out["stability"] = [float(table.get((x.layer, x.index), np.nan)) for x in circuit]
    return out


def _effect_size(positive: Floats, negative: Floats) -> Floats:
    """Cohen's d, as the ranking of that name has it."""
    spread = sum(((x - x.mean(0)) ** 2).sum(0) for x in (positive, negative))
    sd = np.sqrt(spread / (len(positive) + len(negative) - 2))
    delta = positive.mean(0) - negative.mean(0)
    return np.divide(delta, sd, out=np.zeros_like(delta), where=sd > 0)


def _ablations(
    model: Model, circuit: _core.Circuit, task: Task, batch_size: int, progress: bool
) -> list[float | None]:
    """Mean KL along the model's own answers to a few positive prompts, one arm a neuron."""
    ids = model.tokenize(task.positive[:_PROMPTS], task.chat)
    said = model.generate(ids, _TOKENS, return_tokens=True, progress=False)
    kept = [i for i, answer in enumerate(said) if answer]
    arms = [_core.Intervention(1)]
    arms += [_core.Intervention.scale(circuit[i : i + 1], [0.0]) for i in range(len(circuit))]
    kl = divergence(
        model,
        arms,
        [ids[i] for i in kept],
        [said[i] for i in kept],
        batch_size=batch_size,
        title="ablation",
        show=progress,
    )
    return [float(x) for x in kl[1:].mean(1)]
