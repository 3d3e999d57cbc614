"""The search: proposals in batches, measured together, told back; stopped and resumed anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ...base.later import pd
from .budget import Budget
from .candidate import Candidate, starting_points, suggest
from .log import TrialLog

Measure = Callable[[Sequence[Candidate]], list[dict[str, Any] | None]]


def require_optuna() -> Any:
    """Optuna, or a RuntimeError that names it."""
    try:
        import optuna
    except ImportError:
        raise RuntimeError(
            "tune: expected the package optuna, found none; pip install 'cna-neurons[tune]' or "
            "pip install optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def search(
    measure: Measure,
    log: TrialLog,
    *,
    n_layers: int,
    neurons: int,
    rankings: Sequence[str],
    steps: int | None,
    budget: Budget,
    per_step: int,
    seed: int,
    tell: Callable[[int, int], None],
) -> pd.DataFrame:
    """Trials as a table, one row a candidate: its fields, and what `measure` gave.

    Args:
        measure: one result a candidate, None for one that cannot be built; results have left and kl.
        n_layers, neurons: of the model.
        rankings: those that the model can give; proposals of others are dropped.
        budget: of seconds, asked before each step to be measured but the first; steps: at most so many.
        tell: called with the steps that are done and those wanted (0: not known).
    """
    optuna = require_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental samplers
        study = optuna.create_study(directions=["minimize", "minimize"])
        for parameters in starting_points():
            if parameters["ranking"] in rankings:
                study.enqueue_trial(parameters)
        step = 0
        while steps is None or step < steps:
            if step >= len(log.batches) and step > 0 and not budget.has_time_for(1):
                break
            # A sampler of its own for each step: a resumed search proposes what the whole one did.
            study.sampler = optuna.samplers.TPESampler(
                seed=seed + step, multivariate=True, group=True, constant_liar=True
            )
            trials = [study.ask() for _ in range(per_step)]
            proposed = [suggest(trial, n_layers, neurons) for trial in trials]
            if step < len(log.batches):
                results = [row["result"] for row in log.batches[step]]
            else:
                with budget.batch():
                    results = measure([c for c in proposed if c.ranking in rankings])
                found = iter(results)
                results = [next(found) if c.ranking in rankings else None for c in proposed]
                log.add(
                    [
                        {"candidate": c.as_json(), "result": r}
                        for c, r in zip(proposed, results, strict=True)
                    ]
                )
            for trial, result in zip(trials, results, strict=True):
                if result is None:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    left = result["left"] if result["n"] else 1.0  # too far to be asked
                    study.tell(trial, [left, min(result["kl"], 5.0)])
            step += 1
            tell(step, steps or 0)
    rows = [
        {"step": i, **row["candidate"], **row["result"]}
        for i, batch in enumerate(log.batches[:step])
        for row in batch
        if row["result"] is not None
    ]
    return pd.DataFrame(rows)


def front(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both `left` and `kl`, by rising KL."""
    best, kept = float("inf"), []
    for index, row in table.sort_values(["kl", "left"], kind="stable").iterrows():
        if row["left"] < best:
            best = row["left"]
            kept.append(index)
    return table.loc[kept]


def within(table: pd.DataFrame, max_kl: float) -> pd.DataFrame:
    """The rows that keep to the bound by a standard error, the best first.

    Equal rows go to the smaller KL, then to fewer neurons.
    """
    rows = table[table["kl"] + table["kl_error"] <= max_kl]
    return rows.sort_values(["left", "kl", "k"], kind="stable")
