"""KL of arms from the unsteered model, along texts that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.later import pd
from ..base.progress import bar
from ..hosts.model import Model
from .arm import Arm
from .intervals import mean_interval


def divergence(
    model: Model,
    arms: Sequence[_core.Intervention],
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    prompts_of_arm: Mapping[int, Sequence[Sequence[int]]] | None = None,
    batch_size: int = 64,
    title: str = "KL",
    show: bool = True,
) -> Tensor:
    """KL(first arm || arm), mean nats per token, float64 [arms, prompts].

    Args:
        prompts, continuations: token ids.
        prompts_of_arm: the prompts of arms that are asked otherwise, by the arm's number.
    """
    active, _ = model._steering(1)
    other = dict(prompts_of_arm or {})
    same = [i for i in range(len(arms)) if i not in other]
    options: dict[str, Any] = {"batch_rows": batch_size}
    out = torch.zeros(len(arms), len(prompts), dtype=torch.float64)
    with bar(title, show, "row") as update:
        out[same], _ = model.core.divergence(
            list(prompts),
            list(continuations),
            intervention=active.then(_core.Intervention.concat([arms[i] for i in same])),
            progress=update,
            **options,
        )
    for i, asked in other.items():
        out[i] = model.core.prompt_divergence(
            list(prompts),
            list(asked),
            list(continuations),
            intervention=active.then(_core.Intervention.concat([arms[0], arms[i]])),
            **options,
        )
    return out


def add_divergence(
    model: Model,
    arms: Sequence[Arm],
    answers: pd.DataFrame,
    ids: Mapping[tuple[str, str], Sequence[Sequence[int]]],
    *,
    most: int,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """KL along the first arm's answers, by answer and by arm, in nats per token.

    Args:
        ids: token ids by an arm's own instruction and set.
        most: evaluation prompts, those with an answer, from the first; 0 measures nothing. Benign
            prompts are all used, for draws of random neurons as many as they have answers.
    Returns:
        the answers with `answer_kl`, the KL along the unsteered answer to the same prompt, NaN
        where it was not measured; and the columns kl_benign with its bootstrap interval and, but
        for random draws, kl_evaluation.
    """
    out = answers.assign(answer_kl=math.nan)
    extra: dict[str, dict[str, float]] = {}
    if most < 1:
        return out, extra
    fixed = [arm for arm in arms if arm.kind != "random"]
    draws = [arms[0], *(arm for arm in arms if arm.kind == "random")]
    fewer = draws[-1].max_prompts if len(draws) > 1 else None
    for name, column, limit, chosen in (
        ("benign", "kl_benign", None, fixed),
        ("benign", "kl_benign", fewer, draws),
        ("evaluation", "kl_evaluation", most, fixed),
    ):
        base = out[(out["arm"] == arms[0].key) & (out["set"] == name)]
        base = base[base["tokens"].map(len) > 0].head(limit if limit is not None else len(base))
        if base.empty or (chosen is draws and len(draws) == 1):
            continue
        index = base["index"].tolist()
        pick = {prefix: [rows[i] for i in index] for (prefix, s), rows in ids.items() if s == name}
        kl = divergence(
            model,
            [arm.intervention for arm in chosen],
            pick[arms[0].prefix],
            base["tokens"].tolist(),
            prompts_of_arm={i: pick[arm.prefix] for i, arm in enumerate(chosen) if arm.prefix},
            batch_size=batch_size,
            title=f"KL, {name} prompts",
            show=progress,
        )
        first = 1 if chosen is draws else 0  # the model itself is measured with the others
        rows = dict(zip([arm.key for arm in chosen], kl.tolist(), strict=True))
        for arm in chosen[first:]:
            values = rows[arm.key]
            extra.setdefault(column, {})[arm.key] = sum(values) / len(values)
            if name == "benign":
                low, high = mean_interval(values)
                extra.setdefault("kl_benign_low", {})[arm.key] = low
                extra.setdefault("kl_benign_high", {})[arm.key] = high
        _put(out, name, index, {arm.key: rows[arm.key] for arm in chosen[first:]})
    return out, extra


def _put(
    answers: pd.DataFrame, name: str, index: Sequence[int], kl: Mapping[str, Sequence[float]]
) -> None:
    """KL by arm and prompt into the rows of the answers that an arm gave to these prompts."""
    found = {
        (key, i): value
        for key, values in kl.items()
        for i, value in zip(index, values, strict=True)
    }
    mine = (answers["set"] == name) & answers["arm"].isin(kl.keys())
    keys = zip(answers.loc[mine, "arm"], answers.loc[mine, "index"], strict=True)
    answers.loc[mine, "answer_kl"] = [found.get(key, math.nan) for key in keys]
