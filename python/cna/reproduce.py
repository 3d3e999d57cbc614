"""The paper's experiments on a model of yours: printed, logged and measured numbers side by side.

    result = cna.reproduce("meta-llama/Llama-3.2-1B-Instruct", base="meta-llama/Llama-3.2-1B")
    result.tables["layers"]

Printed numbers are those of arXiv 2605.12290; logged ones are from the history of the authors'
repository (data/paper.json says which). Where the prompts differ from the authors', the numbers
need not agree; the notes of a result say what differs.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import _core, judges, tasks
from .analysis import compare_circuits, concentration
from .arms import Arm, neuron_arms, vector_arms
from .discovery import discover, universal_neurons
from .display import frame_html, panel
from .files import write_whole
from .loading import load
from .model import Model, Prompts
from .prompts import read_csv, read_prompts
from .steering import caa, caa_mlp, random_like
from .sweep import SweepResult, sweep
from .tasks import Task

PARTS = ("refusal", "quality", "controls", "layers", "overlap")
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LAYER_TASKS = {
    "refusal": "capability-refusal",
    "capitals": "capitals",
    "subject-verb": "subject-verb",
}

_TITLES = {
    "refusal": "Rate of the behaviour, before and after the circuit is switched off",
    "quality": "Strengths: CNA against CAA (alpha = 1 - m for neurons, the coefficient for vectors)",
    "controls": "Controls: random neurons, as many per layer",
    "layers": "Where the circuits sit",
    "layer_counts": "Neurons per layer",
    "overlap": "Base against instruct",
}


@functools.cache
def paper() -> dict[str, Any]:
    """What the paper prints and its authors logged (data/paper.json); rates are 0 to 1."""
    text = resources.files("cna").joinpath("data/paper.json").read_text(encoding="utf-8")
    return json.loads(text)


def paper_entry(model: Model) -> tuple[str | None, dict[str, Any]]:
    """The paper's name and numbers of a model, by its id and shape; (None, {}) for any other."""
    name = model.model_id.rstrip("/").rsplit("/", 1)[-1].casefold().replace("_", "-")
    name = name.removeprefix("meta-")
    for known, entry in paper()["models"].items():
        shape = (entry["n_layers"], entry["width"])
        if known.casefold() == name and shape == (model.n_layers, model.width):
            return known, entry
    return None, {}


@dataclasses.dataclass
class Reproduction:
    """What `cna.reproduce` measured, beside the paper.

    Attributes:
        model_id: of the model measured.
        paper_model: its name in the paper, or None: then the columns of the paper are empty.
        tables: {"refusal", "quality", "controls", "layers", "layer_counts", "overlap": DataFrame},
            those that were asked for. Columns that begin with `paper_` are printed in the paper,
            those with `log_` are from the authors' logs, the others were measured here. Rates and
            shares are 0 to 1; low and high are 95 % intervals.
        notes: what to know when comparing.
        settings: how it was run.
        circuits: {name: Circuit}, those found on the way.
        sweep: the sweep behind the first three tables, with all answers.
    """

    model_id: str
    paper_model: str | None
    tables: dict[str, pd.DataFrame]
    notes: list[str]
    settings: dict[str, Any]
    circuits: dict[str, _core.Circuit]
    sweep: SweepResult | None = None

    def __str__(self) -> str:
        parts = [f"{self.model_id}: {self._in_paper()}"]
        for name, table in self.tables.items():
            if name == "layer_counts":  # layers that hold none are left out here
                table = table[(table["count"] > 0) | (table["log_count"] > 0)]
            text = table.to_string(index=False, na_rep="-", float_format=lambda x: f"{x:.3f}")
            parts.append(f"{_TITLES[name]}\n{text}")
        parts.append("Notes\n" + "\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"Reproduction({self.model_id!r}, {list(self.tables)})"

    def _in_paper(self) -> str:
        if self.paper_model is None:
            return "not a model of the paper, so the paper's and the logs' columns are empty"
        return f"{self.paper_model} of the paper"

    def _repr_html_(self) -> str:
        parts = [f"<div><b>{escape(self.model_id)}</b>: {escape(self._in_paper())}</div>"]
        for name, table in self.tables.items():
            most = 12 if name == "layer_counts" else 60
            parts.append(frame_html(table, caption=_TITLES[name], most=most))
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        parts.append(f"<details open><summary>Notes</summary><ul>{notes}</ul></details>")
        return panel(parts)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes each table as CSV, circuits/*.json, answers.csv, reproduction.json and .html.

        Raises:
            RuntimeError: a file cannot be written.
        """
        out = Path(folder)
        for name, table in self.tables.items():
            write_whole(out / f"{name}.csv", functools.partial(_to_csv, table))
        for name, circuit in self.circuits.items():
            (out / "circuits").mkdir(parents=True, exist_ok=True)
            circuit.save(out / "circuits" / f"{name}.json")
        if self.sweep is not None:
            write_whole(out / "answers.csv", functools.partial(_to_csv, self.sweep.answers))
        about = {
            "model_id": self.model_id,
            "paper_model": self.paper_model,
            "source": paper()["source"],
            "notes": self.notes,
            "settings": self.settings,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        write_whole(out / "reproduction.json", lambda p: p.write_text(text, encoding="utf-8"))
        page = (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width'>"
            f"<title>cna: {escape(self.model_id)}</title>"
            "<style>:root{color-scheme:light dark}body{font:16px system-ui,sans-serif;"
            "margin:2em auto;max-width:70em;padding:0 1em}body>div{max-width:none!important}"
            f"</style></head><body>{self._repr_html_()}</body></html>\n"
        )
        write_whole(out / "reproduction.html", lambda p: p.write_text(page, encoding="utf-8"))
        return out


def _to_csv(table: pd.DataFrame, path: Path) -> None:
    # Text is always quoted: a lone carriage return in an answer would end a row otherwise.
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


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


def reproduce(
    model: Model | str | os.PathLike[str],
    base: Model | str | os.PathLike[str] | None = None,
    parts: Sequence[str] | None = None,
    quick: bool = False,
    *,
    task: Task | None = None,
    layer_tasks: Mapping[str, Task] | None = None,
    fraction: float = 0.001,
    k: int = 200,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Reproduction:
    """Runs the paper's experiments on a model and sets the results beside the paper's.

    Args:
        model: a `cna.Model`, or a name for `cna.load`.
        base: the base model it was tuned from; fed raw text.
        parts: of "refusal", "quality", "controls", "layers", "overlap"; by default all (overlap
            only with a base model).
        quick: 12 prompts, short answers, fewer CAA arms: to see that it runs.
        task: behaviour of the first three parts and of the layer task "refusal"; requests that the
            model is unable to carry out ("capability-refusal") by default. `jailbreak_task` makes
            one of your own copy of JailbreakBench.
        layer_tasks: {"refusal", "capitals", "subject-verb": Task} instead of the built-in ones.
        fraction: size of the circuit of the first three parts; universal neurons are left out.
        k: size of the circuits of the layer and overlap tables, which follow the authors' options.
        max_new_tokens: per answer; by default 40, or the paper's 150 with a task of your own.
        out: folder where finished answers are kept, so that a stopped run goes on.
    Raises:
        ValueError: unknown parts, overlap without a base model, a base model of another shape.
    """
    chosen = list(parts) if parts is not None else [p for p in PARTS if p != "overlap" or base]
    for part in chosen:
        if part not in PARTS:
            raise ValueError(
                f"reproduce: expected parts among {list(PARTS)}, got {part!r}; choose these"
            )
    if "overlap" in chosen and base is None:
        raise ValueError(
            "reproduce: expected a base model for 'overlap', got none; pass base=..., or leave it out"
        )
    model = model if isinstance(model, Model) else load(model)
    if base is not None and not isinstance(base, Model):
        base = load(base)
    if base is not None and (base.n_layers, base.width) != (model.n_layers, model.width):
        raise ValueError(
            f"reproduce: expected a base model of {model.n_layers} layers x {model.width} neurons, "
            f"got one of {base.n_layers} x {base.width}; pass the model it was tuned from"
        )
    name, entry = paper_entry(model)
    own_task = task is not None
    task = task or tasks.load("capability-refusal")
    if max_new_tokens is None:
        max_new_tokens = 24 if quick else 150 if own_task else 40
    result = Reproduction(
        model_id=model.model_id,
        paper_model=name,
        tables={},
        notes=_notes(name, entry, model, task, own_task),
        settings={
            "parts": chosen,
            "quick": quick,
            "task": task.name,
            "judge": task.judge.name,
            "fraction": fraction,
            "k": k,
            "max_new_tokens": max_new_tokens,
            "dtype": str(model.dtype)[6:],
            "device": str(model.device),
            "weights_hash": model.core.weights_hash,
            "versions": {
                "cna": _core.version,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
        circuits={},
    )
    behaviour = [p for p in ("refusal", "quality", "controls") if p in chosen]
    if behaviour:
        universal = universal_neurons(model, chat=task.chat, progress=progress)
        circuit = discover(
            model,
            task.positive,
            task.negative,
            fraction=fraction,
            universal=universal,
            chat=task.chat,
            batch_size=batch_size,
            progress=progress,
        )
        result.circuits["behaviour"] = circuit
        measured = sweep(
            model,
            circuit,
            task,
            multipliers=[1.0 - a for a in ALPHAS] if "quality" in chosen else [0.0],
            baselines=[],
            arms=_arms(model, circuit, task, chosen, quick, progress),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            kl_prompts=0,
            perplexity=False,
            quiz_questions=0,
            max_prompts=12 if quick else None,
            out=None if out is None else Path(out) / "sweep",
            progress=progress,
        )
        result.sweep = measured
        make = {"refusal": refusal_table, "quality": quality_table, "controls": controls_table}
        for part in behaviour:
            result.tables[part] = make[part](measured.table, entry)
        if "controls" in behaviour:
            result.tables["controls"].insert(1, "n_neurons", len(circuit))
            result.tables["controls"].loc[0, "n_neurons"] = 0
    if "layers" in chosen or "overlap" in chosen:
        sets = {label: tasks.load(built_in) for label, built_in in LAYER_TASKS.items()}
        if own_task:
            sets["refusal"] = task
        sets |= dict(layer_tasks or {})
        _localise(result, model, base, entry, sets, k)
        if "layers" not in chosen:
            del result.tables["layers"], result.tables["layer_counts"]
    return result


def _notes(
    name: str | None, entry: dict[str, Any], model: Model, task: Task, own_task: bool
) -> list[str]:
    notes = []
    if name is None:
        notes.append(f"The paper has no {model.model_id}: its columns and the logs' are empty.")
    else:
        notes += list(paper()["notes"].values())
        if str(model.dtype) != "torch.bfloat16":
            notes.append(f"The authors ran in bfloat16, this run is in {str(model.dtype)[6:]}.")
        if "layers" not in entry:
            notes.append(f"The authors give no layer tables for {name}.")
    if own_task:
        notes.append(f"Task {task.name!r}, judge {task.judge.name!r}: {task.description}")
    else:
        notes.append(
            "The behaviour measured here is declining requests that the model is unable to carry "
            "out; the paper measures declining harmful ones, so compare directions, not levels. "
            "Pass a task made of your own copy of the paper's prompts for the same measure."
        )
    notes.append(
        "Discovery prompts of the layer tables are this library's own, not the authors' 8 to 10 "
        "pairs, unless layer_tasks were passed."
    )
    return notes


def _arms(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    chosen: Sequence[str],
    quick: bool,
    progress: bool,
) -> list[Arm]:
    arms: list[Arm] = []
    if "controls" in chosen:
        for seed in (0,) if quick else (0, 1, 2):
            arms += neuron_arms(f"random-{seed}", random_like(circuit, seed), [0.0])
    if "quality" in chosen and model.core.has_residual_sites:
        positive, negative, chat = task.positive, task.negative, task.chat
        printed = [a for a in ALPHAS if a > 0]
        removing = [-0.5] if quick else [-0.25, -0.5, -0.75, -1.0]
        everywhere = caa_mlp(model, positive, negative, chat=chat, progress=progress)
        arms += vector_arms(everywhere, printed + removing, per_layer=False)
        layers = sorted({model.n_layers * p // 6 for p in ((4,) if quick else (3, 4))})
        vector = caa(model, positive, negative, layers=layers, chat=chat, progress=progress)
        arms += vector_arms(vector, removing)
    return arms


# --- the tables ---------------------------------------------------------------------------------


def _row(table: pd.DataFrame, method: str, strength: float) -> Any:
    return table[(table.method == method) & (table.strength == strength)].iloc[0]


def refusal_table(table: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """Rate at m = 1 and m = 0 and the change, from a sweep's table, beside tables 1 to 3.

    `change` is after - before, `relative change` is that over before; its p value is McNemar's.
    """
    before, after = _row(table, "cna", 1.0), _row(table, "cna", 0.0)
    columns: dict[str, list[float]] = {}
    for column, key in (
        ("paper_jailbreakbench", "jailbreakbench"),
        ("log_jailbreakbench", "log_jailbreakbench"),
        ("paper_own_prompts", "own_prompts"),
    ):
        known = entry.get(key, {})
        columns[column] = _before_after(
            known.get("baseline_rate", math.nan), known.get("cna_rate", math.nan)
        )
    columns["measured"] = _before_after(before.rate, after.rate)
    nothing = [math.nan, math.nan]
    columns["low"] = [before.rate_low, after.rate_low, *nothing]
    columns["high"] = [before.rate_high, after.rate_high, *nothing]
    columns["p_value"] = [math.nan, math.nan, after.p_value, math.nan]
    out = pd.DataFrame(columns)
    out["n"] = int(before.n)
    out.insert(0, "alpha", pd.array([0, 1, None, None], dtype="Int64"))
    out.insert(0, "multiplier", pd.array([1, 0, None, None], dtype="Int64"))
    out.insert(0, "measure", ["rate, unsteered", "rate, circuit off", "change", "relative change"])
    return out


def _before_after(before: float, after: float) -> list[float]:
    change = after - before
    return [before, after, change, change / before if before else math.nan]


def quality_table(table: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """Rate and quality at every strength, neurons by multiplier and alpha, vectors by alpha.

    The paper's CNA quality, printed for alpha = 1, stands where it prints it; the logs put the same
    number at m = 1.
    """
    printed = entry.get("own_prompts", {})
    log_rate, log_quality = entry.get("log_rate", {}), entry.get("log_quality", {})
    rows = []
    for row in table.itertuples():
        if str(row.method).startswith("random"):
            continue
        neurons = row.method == "cna"
        paper_rate = paper_quality = math.nan
        key = "cna_by_multiplier" if neurons else "caa_by_alpha"
        if neurons and row.alpha == 0:
            paper_rate = printed.get("baseline_rate", math.nan)
        if row.alpha == 1 and row.method in ("cna", "caa-mlp"):
            method = "cna" if neurons else "caa"
            paper_rate = printed.get(f"{method}_rate", math.nan)
            paper_quality = printed.get(f"{method}_quality", math.nan)
        logged = {} if row.method == "caa" else log_rate.get(key, {})
        logged_quality = {} if row.method == "caa" else log_quality.get(key, {})
        rows.append(
            {
                "method": row.method,
                "layer": row.layer,
                "multiplier": row.strength if neurons else math.nan,
                "alpha": row.alpha,
                "paper_rate": paper_rate,
                "log_rate": logged.get(f"{row.strength:g}", math.nan),
                "rate": row.rate,
                "rate_low": row.rate_low,
                "rate_high": row.rate_high,
                "paper_quality": paper_quality,
                "log_quality": logged_quality.get(f"{row.strength:g}", math.nan),
                "composite": row.composite,
                "quality": row.quality,
                "quality_low": row.quality_low,
                "quality_high": row.quality_high,
            }
        )
    out = pd.DataFrame(rows)
    out["layer"] = out["layer"].astype("Int64")
    rank = {"cna": 0, "caa-mlp": 1, "caa": 2}
    order = out.assign(_rank=out.method.map(rank)).sort_values(["_rank", "layer", "alpha"])
    return order.drop(columns="_rank").reset_index(drop=True)


def controls_table(table: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """The circuit and random neurons switched off. The paper reports no such control."""
    rows = [
        {
            "neurons": "none" if row.strength == 1 else str(row.method).replace("cna", "circuit"),
            "multiplier": row.strength,
            "alpha": row.alpha,
            "paper_rate": math.nan,
            "rate": row.rate,
            "rate_low": row.rate_low,
            "rate_high": row.rate_high,
            "quality": row.quality,
            "p_value": row.p_value,
        }
        for row in table.itertuples()
        if (row.method == "cna" and row.strength in (0.0, 1.0)) or row.method.startswith("random")
    ]
    return pd.DataFrame(rows)


def _localise(
    result: Reproduction,
    model: Model,
    base: Model | None,
    entry: Mapping[str, Any],
    sets: Mapping[str, Task],
    k: int,
) -> None:
    """Fills the tables layers, layer_counts and, with a base model, overlap."""
    layers, counts, overlaps = [], [], []
    known = paper()["models"]
    for label, task in sets.items():
        circuits = {
            "instruct" if base is not None else "model": authors_circuit(
                model, task.positive, task.negative, k=k, chat=task.chat
            )
        }
        if base is not None:
            circuits["base"] = authors_circuit(base, task.positive, task.negative, k=k, chat=False)
        for which, circuit in circuits.items():
            result.circuits[f"{which}-{label}"] = circuit
            source = known.get(entry.get("other"), {}) if which == "base" else entry
            printed = source.get("layers", {}).get(label, {})
            logged = printed.get("log_counts")
            where = concentration(circuit)
            measured = list(circuit.layer_counts)
            theirs = (
                [logged.get(str(i), 0) for i in range(len(measured))]
                if logged
                else [math.nan] * len(measured)
            )
            layers.append(
                {
                    "model": which,
                    "task": label,
                    "n_neurons": len(circuit),
                    "paper_last_three": printed.get("last_three", math.nan),
                    "last_three": where.last_three,
                    "paper_last_quarter": printed.get("last_quarter", math.nan),
                    "last_quarter": where.last_quarter,
                    "log_distance": layer_distance(theirs, measured),
                }
            )
            counts += [
                {
                    "model": which,
                    "task": label,
                    "layer": i,
                    "log_count": theirs[i],
                    "count": measured[i],
                }
                for i in range(len(measured))
            ]
        if base is not None:
            overlaps.append(_overlap_row(label, circuits, entry))
    result.tables["layers"] = pd.DataFrame(layers)
    result.tables["layer_counts"] = pd.DataFrame(counts)
    if base is not None and "overlap" in result.settings["parts"]:
        result.tables["overlap"] = pd.DataFrame(overlaps)


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


# --- the user's own copy of the paper's prompts ---------------------------------------------------


def jailbreak_task(
    harmful: str | os.PathLike[str],
    benign: str | os.PathLike[str],
    discovery: str | os.PathLike[str] | None = None,
) -> Task:
    """A task of the user's own files of requests; none ship with this library.

    Args:
        harmful: requests to measure on, a CSV file of JBB-Behaviors (column Goal) or any file that
            `cna.prompts.read_prompts` takes.
        benign: harmless requests, likewise.
        discovery: other harmful requests to find the circuit with, as in the paper; then all of
            `harmful` are measured. Without it every other prompt of both files is for discovery and
            the rest for measuring, for the two must not share prompts.
    The judge is "refusal-13". Raises ValueError for bad files or shared prompts.
    """
    measured, harmless = _requests(Path(harmful)), _requests(Path(benign))
    if discovery is None:
        positive, evaluation = measured[0::2], measured[1::2]
        how = "every other prompt of both files finds the circuit, the rest measure it"
    else:
        positive, evaluation = _requests(Path(discovery)), measured
        how = "the circuit was found with other prompts than it was measured on"
    negative, held_out = harmless[0::2], harmless[1::2]
    shared = {" ".join(p.casefold().split()) for p in positive} & {
        " ".join(p.casefold().split()) for p in evaluation
    }
    if shared:
        raise ValueError(
            f"jailbreak_task: expected discovery and evaluation prompts to differ, got "
            f"{len(shared)} shared; remove them from one file"
        )
    if not evaluation or not negative:
        raise ValueError(
            f"jailbreak_task: expected at least two prompts in each file, got {len(measured)} and "
            f"{len(harmless)}; add prompts"
        )
    return Task(
        name=Path(harmful).stem,
        description=f"The user's own requests; {how}.",
        positive=positive,
        negative=negative,
        evaluation=evaluation,
        benign=held_out,
        judge=judges.get("refusal-13"),
        source=f"{harmful}, {benign}",
    )


def _requests(path: Path) -> list[str]:
    if path.suffix.lower() == ".csv" and path.exists():
        rows = read_csv(path, "jailbreak_task")
        if rows and "goal" in [cell.strip().lower() for cell in rows[0]]:
            return tasks.read_jailbreakbench(path)
    return read_prompts(path)


def main_reproduce(
    model: str,
    out: str | os.PathLike[str],
    base: str | None = None,
    quick: bool = False,
    jbb: str | os.PathLike[str] | None = None,
    benign: str | os.PathLike[str] | None = None,
    discovery: str | os.PathLike[str] | None = None,
) -> int:
    """`cna reproduce`: runs all parts, prints the tables, writes the folder. Returns 0.

    Raises:
        ValueError: one of `jbb` and `benign` without the other, or what `reproduce` raises.
    """
    if (jbb is None) != (benign is None) or (discovery is not None and jbb is None):
        raise ValueError(
            "reproduce: expected files of harmful and of benign prompts, got one of them; pass both"
        )
    task = None
    if jbb is not None and benign is not None:
        task = jailbreak_task(jbb, benign, discovery)
    result = reproduce(model, base=base, quick=quick, task=task, out=out)
    folder = result.save(out)
    print(result)
    print(f"\nwrote {folder}")
    return 0
