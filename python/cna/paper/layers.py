"""Where circuits sit, found as the authors find them, and what base and instruct models share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .. import _core
from ..analysis import compare_circuits, concentration
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from ..prompts.tasks import Task
from .printed import paper

LAYER_TASKS = {
    "refusal": "capability-refusal",
    "capitals": "capitals",
    "subject-verb": "subject-verb",
}


def authors_circuit(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    k: int = 200,
    skipped_layers: int = 2,
    chat: bool | None = None,
) -> _core.Circuit:
    """A circuit as the authors' code finds one: top k, first layers left out, no universal filter.

    delta as in `cna.discover` (their means are in the model's dtype, these in float64).

    Args:
        k: neurons, at most those of the layers that are left.
        skipped_layers: layers from the first that give no neurons; always leaves one.
    """
    skipped = max(0, min(skipped_layers, model.n_layers - 1))
    k = min(k, (model.n_layers - skipped) * model.width)
    moments = model.core.contrast(model.tokenize(positive, chat), model.tokenize(negative, chat))
    left_out = [(layer, j) for layer in range(skipped) for j in range(model.width)]
    circuit = model.core.select(*moments, k=k, universal=left_out)
    plain = _core.Circuit(circuit.shape, circuit.neurons, dict(circuit.provenance))
    return plain.with_provenance(skipped_layers=list(range(skipped)), universal_filter=None)


def localise(
    model: Model, base: Model | None, entry: Mapping[str, Any], sets: Mapping[str, Task], k: int
) -> tuple[dict[str, pd.DataFrame], dict[str, _core.Circuit]]:
    """Circuits of every task in the model and its base model, and where they sit.

    Args:
        entry: the paper's numbers of the model.
        sets: {label: Task}.
        k: neurons of a circuit.
    Returns:
        The tables "layers", "layer_counts" and, with a base model, "overlap"; and the circuits.
    """
    layers, counts, overlaps = [], [], []
    found: dict[str, _core.Circuit] = {}
    for label, task in sets.items():
        positive, negative = task.positive, task.negative
        tuned = authors_circuit(model, positive, negative, k=k, chat=task.chat)
        circuits = {"model" if base is None else "instruct": tuned}
        if base is not None:
            circuits["base"] = authors_circuit(base, positive, negative, k=k, chat=False)
            overlaps.append(_overlap_row(label, circuits, entry))
        for which, circuit in circuits.items():
            found[f"{which}-{label}"] = circuit
            source = paper()["models"].get(entry.get("other"), {}) if which == "base" else entry
            printed = source.get("layers", {}).get(label, {})
            theirs = _logged_counts(printed, len(circuit.layer_counts))
            layers.append({"model": which, "task": label} | _layer_row(circuit, printed, theirs))
            counts += [
                {"model": which, "task": label, "layer": i, "log_count": logged, "count": count}
                for i, (logged, count) in enumerate(zip(theirs, circuit.layer_counts, strict=True))
            ]
    tables = {"layers": pd.DataFrame(layers), "layer_counts": pd.DataFrame(counts)}
    if base is not None:
        tables["overlap"] = pd.DataFrame(overlaps)
    return tables, found


def _logged_counts(printed: Mapping[str, Any], n_layers: int) -> list[float]:
    """Neurons per layer in the authors' log; NaN where there is none."""
    logged = printed.get("log_counts")
    return [logged.get(str(i), 0) if logged else math.nan for i in range(n_layers)]


def _layer_row(
    circuit: _core.Circuit, printed: Mapping[str, Any], theirs: Sequence[float]
) -> dict[str, Any]:
    where = concentration(circuit)
    return {
        "n_neurons": len(circuit),
        "paper_last_three": printed.get("last_three", math.nan),
        "last_three": where.last_three,
        "paper_last_quarter": printed.get("last_quarter", math.nan),
        "last_quarter": where.last_quarter,
        "log_distance": layer_distance(theirs, circuit.layer_counts),
    }


def layer_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Share of neurons that stand in other layers (total variation of the two count profiles)."""
    if len(a) != len(b) or not sum(b) or math.isnan(sum(a)) or not sum(a):
        return math.nan
    return sum(abs(x / sum(a) - y / sum(b)) for x, y in zip(a, b, strict=True)) / 2


def _overlap_row(
    label: str, circuits: Mapping[str, _core.Circuit], entry: Mapping[str, Any]
) -> dict[str, Any]:
    both = compare_circuits(circuits["base"], circuits["instruct"])
    printed = entry.get("overlap", {}).get(label, {})
    return {
        "task": label,
        "n_neurons": both.right,
        "paper_shared": printed.get("shared", math.nan),
        "shared": both.shared,
        "paper_share_of_instruct": printed.get("share_of_instruct", math.nan),
        "share_of_instruct": both.share_of_right,
        "log_jaccard": printed.get("log_jaccard", math.nan),
        "jaccard": both.jaccard,
        "expected_by_chance": both.expected,
        "p_value": both.p_value,
    }
