"""Where circuits sit, found as the authors find them and by contribution, and what two models share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .. import _core
from ..analysis import LayersByRanking, compare_circuits
from ..base.later import pd
from ..circuits.layers import find_layers
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from ..prompts.tasks import Task
from .printed import paper

LAYER_TASKS = {
    "refusal": "capability-refusal",
    "capitals": "capitals-paper",
    "subject-verb": "agreement-paper",
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
    k, left_out, said = _authors_options(model, k, skipped_layers)
    moments = model.core.contrast(model.tokenize(positive, chat), model.tokenize(negative, chat))
    return _plain(model.core.select(*moments, k=k, universal=left_out), said)


def authors_layers(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    k: int = 200,
    skipped_layers: int = 2,
    chat: bool | None = None,
) -> LayersByRanking:
    """`authors_circuit`, and beside it circuits of its size and layers by contribution.

    The sums are over all neurons, those of the layers left out too.
    """
    k, left_out, said = _authors_options(model, k, skipped_layers)
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    found = find_layers(model, sides, left_out, size={"k": k}, progress=False)
    return found.mapped(lambda circuit: _plain(circuit, said))


def _authors_options(
    model: Model, k: int, skipped_layers: int
) -> tuple[int, list[tuple[int, int]], dict[str, Any]]:
    """The size of a circuit, the neurons that give none, and what a circuit's provenance says."""
    skipped = max(0, min(skipped_layers, model.n_layers - 1))
    k = min(k, sum(model.widths[skipped:]))
    left_out = [(layer, j) for layer in range(skipped) for j in range(model.widths[layer])]
    return k, left_out, {"skipped_layers": list(range(skipped)), "universal_filter": None}


def _plain(circuit: _core.Circuit, said: dict[str, Any]) -> _core.Circuit:
    """Without the neurons that were left out: they are no universal ones."""
    plain = _core.Circuit(
        circuit.shape,
        circuit.neurons,
        dict(circuit.provenance),
        widths=circuit.widths,
        experts=circuit.experts,
    )
    return plain.with_provenance(**said)


def localise(
    model: Model, base: Model | None, entry: Mapping[str, Any], sets: Mapping[str, Task], k: int
) -> tuple[dict[str, pd.DataFrame], dict[str, _core.Circuit], list[str]]:
    """Circuits of every task in the model and its base model, and where they sit.

    Args:
        entry: the paper's numbers of the model.
        sets: {label: Task}.
        k: neurons of a circuit.
    Returns:
        The tables "layers", "layer_counts" and, with a base model, "overlap"; the circuits; and a line
        for each model that does not know its weights, so that its columns of contributions are empty.
    """
    layers, counts, overlaps = [], [], []
    circuits: dict[str, _core.Circuit] = {}
    missing: list[str] = []
    for label, task in sets.items():
        positive, negative = task.positive, task.negative
        tuned = authors_layers(model, positive, negative, k=k, chat=task.chat)
        found = {"model" if base is None else "instruct": tuned}
        if base is not None:
            found["base"] = authors_layers(base, positive, negative, k=k, chat=False)
            overlaps.append({"task": label} | _overlap_row(found, entry, label))
        for which, where in found.items():
            circuits[f"{which}-{label}"] = where.by_delta
            if where.by_contribution is not None and where.by_converted is not None:
                circuits[f"{which}-{label}-contribution"] = where.by_contribution
                circuits[f"{which}-{label}-converted"] = where.by_converted
            else:
                missing.append(f"No contributions of the {which}: {where.missing}")
            source = paper()["models"].get(entry.get("other"), {}) if which == "base" else entry
            printed = source.get("layers", {}).get(label, {})
            table = where.table
            theirs = _logged_counts(printed, len(table))
            layers.append({"model": which, "task": label} | _layer_row(where, printed, theirs))
            counts += [
                {"model": which, "task": label, "layer": row["layer"], "log_count": logged}
                | {"count": row["delta_count"]}
                | {"log_distance": _distance_here(logged, theirs, row["delta_count"], table)}
                | {c: row[c] for c in table if c not in ("layer", "delta_count")}
                for logged, row in zip(theirs, table.to_dict("records"), strict=True)
            ]
    tables = {"layers": pd.DataFrame(layers), "layer_counts": pd.DataFrame(counts)}
    if base is not None:
        tables["overlap"] = pd.DataFrame(overlaps)
    return tables, circuits, list(dict.fromkeys(missing))


def _logged_counts(printed: Mapping[str, Any], n_layers: int) -> list[float]:
    """Neurons per layer in the authors' log; NaN where there is none."""
    logged = printed.get("log_counts")
    return [logged.get(str(i), 0) if logged else math.nan for i in range(n_layers)]


def _layer_row(
    found: LayersByRanking, printed: Mapping[str, Any], theirs: Sequence[float]
) -> dict[str, Any]:
    """The paper's shares and those by |delta|, then the same by |delta| converted, by contribution."""
    late = found.late
    row: dict[str, Any] = {"n_neurons": len(found.by_delta)}
    for at, part in enumerate(("last_three", "last_quarter")):
        row[f"paper_{part}"] = printed.get(part, math.nan)
        row[part] = late["delta_count"][at]
        row[f"converted_{part}"] = late["converted_count"][at]
        row[f"contribution_{part}"] = late["contribution_count"][at]
    row["log_distance"] = layer_distance(theirs, found.by_delta.layer_counts)
    return row


def layer_distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Share of neurons that stand in other layers (total variation of the two count profiles)."""
    if len(a) != len(b) or not sum(b) or math.isnan(sum(a)) or not sum(a):
        return math.nan
    return sum(abs(x / sum(a) - y / sum(b)) for x, y in zip(a, b, strict=True)) / 2


def _distance_here(
    logged: float, theirs: Sequence[float], count: float, table: pd.DataFrame
) -> float:
    """A layer's part of `layer_distance`; NaN where there is no log."""
    if math.isnan(logged) or not sum(theirs):
        return math.nan
    return abs(logged / sum(theirs) - count / table["delta_count"].sum()) / 2


def _overlap_row(
    found: Mapping[str, LayersByRanking], entry: Mapping[str, Any], label: str
) -> dict[str, Any]:
    base, instruct = found["base"], found["instruct"]
    both = compare_circuits(base.by_delta, instruct.by_delta)
    printed = entry.get("overlap", {}).get(label, {})
    row = {
        "n_neurons": both.right,
        "paper_shared": printed.get("shared", math.nan),
        "shared": both.shared,
        "paper_share_of_instruct": printed.get("share_of_instruct", math.nan),
        "share_of_instruct": both.share_of_right,
        "log_jaccard": printed.get("log_jaccard", math.nan),
        "jaccard": both.jaccard,
        "expected_by_chance": both.expected,
        "p_value": both.p_value,
        "contribution_shared": math.nan,
        "contribution_jaccard": math.nan,
    }
    if base.by_contribution is not None and instruct.by_contribution is not None:
        other = compare_circuits(base.by_contribution, instruct.by_contribution)
        row |= {"contribution_shared": other.shared, "contribution_jaccard": other.jaccard}
    return row
