"""`cna.tune`: the setting with the least behaviour left, under a bound on its side effect."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...base.checks import whole_number
from ...base.files import require_folder
from ...base.hashes import hash_of
from ...base.later import pd
from ...base.progress import bar
from ...circuits.vectors import SteeringVector
from ...hosts.about import fingerprint_parts, steering_active
from ...hosts.model import Model
from ...prompts.readers import universal_prompts
from ...prompts.tasks import Task
from ..arm import Arm, operation_arms, vector_arms
from ..baselines import prompt_arms
from ..result import SweepResult
from ..sweep import sweep
from .budget import Budget
from .candidate import Candidate
from .choice import Choice, Measured
from .fitted import Fitted
from .log import TrialLog
from .result import TuneResult
from .search import require_optuna, search, within

CAA_COEFFICIENTS = (-0.375, -0.5, -0.25, -1.0)  # the likelier ones first: time may end the grid
CHOICE_PROMPTS = 16  # of the behaviour, and as many without it
HARMLESS = 8  # prompts of cna's own
FAR = 5.0  # times the bound: settings beyond are asked nothing


def tune(
    model: Model,
    task: Task,
    max_kl: float = 0.05,
    *,
    seconds: float | None = 600.0,
    steps: int | None = None,
    per_step: int = 8,
    seed: int = 0,
    max_new_tokens: int = 40,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TuneResult:
    """Finds ranking, penalty, size, depth, operation and strength for a task.

    The discovery prompts are split by `seed`: neurons come from one half, every choice is made on the
    other, on its prompts with the behaviour (what is left of it) and without (the KL), and on harmless
    prompts of cna's own. The evaluation prompts are answered once, at the end.

    Args:
        max_kl: bound on the benign KL, nats per token; the choice keeps to it by a standard error.
        seconds: of the whole call; nothing begins that would not end in time with the evaluation but
            one batch of CAA's grid and one step. None: `steps` alone decide.
        steps, per_step: batches of candidates, and candidates in each.
        max_new_tokens: of an answer, in the search and in the evaluation.
        out: a run folder, see `TuneResult.save`; a stopped search goes on from what it tried there.
    Returns:
        TuneResult. Where no candidate keeps to the bound, the least disturbing one, `within_bound`
        False.
    Raises:
        ValueError: a bound or a budget that cannot be, a task with too few discovery prompts, or a
            folder of another search.
        RuntimeError: the package optuna is missing.
    """
    require_optuna()
    started = time.monotonic()
    if not max_kl > 0:
        raise ValueError(f"tune: expected a bound on KL above 0, got {max_kl}; pass 0.05")
    if seconds is None and steps is None:
        raise ValueError("tune: expected seconds or steps, got neither; pass seconds=600")
    steps = None if steps is None else whole_number(steps, 1, "steps", "tune")
    per_step = whole_number(per_step, 1, "per_step", "tune")
    fit, choice = halves(task, seed)
    if out is not None:
        require_folder(Path(out), "tune")
    fingerprint = hash_of(
        fingerprint_parts(model),
        steering_active(model),
        [model.tokenize(x, task.chat) for x in (*fit, *choice)],
        [per_step, seed, max_new_tokens, max_kl],
    )
    log = TrialLog(None if out is None else Path(out) / "trials.jsonl", fingerprint)
    fitted = Fitted(model, task, *fit, batch_size, progress)
    harmless = random.Random(seed).sample(universal_prompts(), HARMLESS)
    measured = Choice(
        model,
        task.judge,
        *choice,
        harmless,
        chat=task.chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )

    def measure(candidates: Sequence[Candidate]) -> list[dict[str, Any] | None]:
        built: list[Any] = []
        for candidate in candidates:
            try:
                operation = fitted.operation(candidate)
            except ValueError:  # fewer neurons than k
                built.append(None)
            else:
                built.append(operation.intervention([candidate.strength]))
        known = [b for b in built if b is not None]
        results = iter(measured.measure(known, False, FAR * max_kl) if known else [])
        return [None if b is None else dataclasses.asdict(next(results)) for b in built]

    asked = []
    if task.prompt_baseline:
        found = measured.measure_instruction(task.prompt_baseline)
        asked = [pd.DataFrame([{"kind": "prompt", "strength": 1.0, **dataclasses.asdict(found)}])]
    budget = Budget(started, seconds, _evaluation_rows(task) / (per_step * len(choice[0])))
    vectors = _caa_table(fitted.caa, measured, per_step, FAR * max_kl, budget)
    with bar("tune", progress, "step") as update:
        tried = search(
            measure,
            log,
            n_layers=model.n_layers,
            neurons=model.n_neurons,
            rankings=fitted.rankings,
            steps=steps,
            budget=budget,
            per_step=per_step,
            seed=seed,
            tell=update or (lambda done, total: None),
        )
    table = pd.concat([tried.assign(kind="circuit"), vectors, *asked], ignore_index=True)
    circuits = table[table["kind"] == "circuit"]
    fits = within(circuits, max_kl)
    row = (fits if len(fits) else circuits.sort_values("kl")).iloc[0].to_dict()
    chosen = Candidate.of(row)
    operation = fitted.operation(chosen)
    arms = operation_arms("tuned", operation, [chosen.strength])
    arms += _best_caa(fitted.caa, vectors, max_kl)
    evaluation = _evaluate(
        model, task, operation.circuit, arms, max_new_tokens, batch_size, progress
    )
    settings = {
        "task": task.name,
        "max_kl": max_kl,
        "seed": seed,
        "per_step": per_step,
        "steps": int(tried["step"].max()) + 1,
        "seconds": round(time.monotonic() - started, 1),
        "caa_grid": [len(vectors), len(fitted.caa.vectors) * len(CAA_COEFFICIENTS)],
        "n_fit": [len(x) for x in fit],
        "n_choice": [len(x) for x in choice],
        "without_weights": fitted.without_weights,
        "fingerprint": fingerprint,
    }
    best = TuneResult(operation, chosen.strength, table, row, bool(len(fits)), evaluation, settings)
    if out is not None:
        best.save(out)
    return best


Sides = tuple[list[Any], list[Any]]


def halves(task: Task, seed: int) -> tuple[Sides, Sides]:
    """(positive, negative) of the fit half and of the choice half; pairs stay together."""
    pairs = min(len(task.positive), len(task.negative))
    if pairs < 8:
        raise ValueError(
            f"tune: expected 8 discovery prompts or more on each side, got {len(task.positive)} and "
            f"{len(task.negative)}; add some, or choose by hand with cna.sweep"
        )
    order = list(range(pairs))
    random.Random(seed).shuffle(order)
    held = sorted(order[: min(CHOICE_PROMPTS, pairs // 2)])
    kept = sorted(order[len(held) :])
    fit = ([task.positive[i] for i in kept], [task.negative[i] for i in kept])
    return fit, ([task.positive[i] for i in held], [task.negative[i] for i in held])


def _evaluation_rows(task: Task) -> int:
    """Answers of the evaluation: the model's, the choice's, CAA's and the instruction's."""
    return len(task.evaluation) * (3 + bool(task.prompt_baseline))


def _caa_table(
    vector: SteeringVector, measured: Choice, per_step: int, most_kl: float, budget: Budget
) -> pd.DataFrame:
    """CAA at each layer and coefficient, on the same prompts, as far as the time goes."""
    grid = [(layer, c) for c in CAA_COEFFICIENTS for layer in vector.vectors]
    found: list[Measured] = []
    for at in range(0, len(grid), per_step):
        if at and not budget.has_time_for(2):  # a step of the search must follow
            break
        with budget.batch():
            part = grid[at : at + per_step]
            steered = [vector.at(layer).intervention([c]) for layer, c in part]
            found += measured.measure(steered, False, most_kl)
    rows = [
        {"kind": "caa", "layer": layer, "strength": c, **dataclasses.asdict(m)}
        for (layer, c), m in zip(grid[: len(found)], found, strict=True)
    ]
    return pd.DataFrame(rows)


def _best_caa(vector: SteeringVector, table: pd.DataFrame, max_kl: float) -> list[Arm]:
    fits = within(table.assign(k=0), max_kl)
    row = (fits if len(fits) else table.sort_values("kl")).iloc[0]
    layer = int(row["layer"])
    at = dataclasses.replace(vector, vectors={layer: vector.vectors[layer]})
    return vector_arms(at, [float(row["strength"])])


def _evaluate(
    model: Model,
    task: Task,
    circuit: Any,
    arms: list[Arm],
    max_new_tokens: int,
    batch_size: int,
    progress: bool,
) -> SweepResult:
    """The choice, once, on prompts that nothing was chosen on."""
    if task.prompt_baseline:
        arms = [*arms, *prompt_arms(task, None)]
    return sweep(
        model,
        circuit,
        task,
        [1.0],
        [],
        arms=arms,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        perplexity=False,
        quiz_questions=0,
        layers=False,
        progress=progress,
    )
