"""The paper's experiments on a model of yours: printed, logged and measured numbers side by side.

    result = cna.reproduce("meta-llama/Llama-3.2-1B-Instruct", base="meta-llama/Llama-3.2-1B")
    result.tables["layers"]

Printed numbers are those of arXiv 2605.12290; logged ones are from the history of the authors'
repository (prompts/data/paper.json says which). Where the prompts differ from the authors', the numbers
need not agree; the notes of a result say what differs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import _core
from ..circuits.discovery import discover
from ..circuits.random_control import random_like
from ..circuits.universal import universal_neurons
from ..circuits.vectors import caa, caa_mlp
from ..hosts.loading import load
from ..hosts.model import Model
from ..measure.arms import Arm, neuron_arms, vector_arms
from ..measure.sweep import sweep
from ..prompts import tasks
from ..prompts.tasks import Task
from .layers import LAYER_TASKS, localise
from .own_prompts import jailbreak_task
from .printed import paper, paper_entry
from .result import Reproduction
from .tables import controls_table, quality_table, refusal_table

PARTS = ("refusal", "quality", "controls", "layers", "overlap")
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


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
            **_environment(model),
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
        tables, circuits = localise(model, base, entry, sets, k)
        result.circuits |= circuits
        wanted = {"layers": ["layers", "layer_counts"], "overlap": ["overlap"]}
        for part, names in wanted.items():
            if part in chosen:
                result.tables |= {table: tables[table] for table in names}
    return result


def _environment(model: Model) -> dict[str, Any]:
    return {
        "dtype": str(model.dtype)[6:],
        "device": str(model.device),
        "weights_hash": model.core.weights_hash,
        "versions": {
            "cna": _core.version,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


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


def main_reproduce(
    model: str,
    out: str | os.PathLike[str],
    base: str | None = None,
    quick: bool = False,
    jbb: str | os.PathLike[str] | None = None,
    benign: str | os.PathLike[str] | None = None,
) -> int:
    """`cna reproduce`: runs all parts, prints the tables, writes the folder. Returns 0.

    Raises:
        ValueError: one of `jbb` and `benign` without the other, or what `reproduce` raises.
    """
    if (jbb is None) != (benign is None):
        raise ValueError(
            "reproduce: expected files of harmful and of benign prompts, got one of them; pass both"
        )
    task = None
    if jbb is not None and benign is not None:
        task = jailbreak_task(jbb, benign)
    result = reproduce(model, base=base, quick=quick, task=task, out=out)
    folder = result.save(out)
    print(result)
    print(f"\nwrote {folder}")
    return 0
