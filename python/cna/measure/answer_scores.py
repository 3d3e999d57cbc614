"""How likely answers are to the unsteered model, given their own prompt and given another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.later import pd
from ..base.progress import bar
from ..hosts.model import Model


def add_likelihoods(
    model: Model,
    answers: pd.DataFrame,
    ids: Mapping[str, Sequence[Sequence[int]]],
    *,
    most: int | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """The answers with `log_likelihood` and `relevance`, of evaluation prompts; NaN elsewhere.

    log_likelihood is the sum over the answer's tokens given its own prompt, in nats; relevance is
    that per token, minus the same given the next prompt of the set (the first one follows the last).
    Both are the unsteered model's. Answers to draws of random neurons and empty ones are left out.

    Args:
        answers: with columns set, index, kind and tokens.
        ids: prompts of each set as token ids, without an arm's own instruction.
        most: prompts, from the first; all by default.
    """
    out = answers.assign(log_likelihood=float("nan"), relevance=float("nan"))
    wanted = out[(out["set"] == "evaluation") & (out["kind"] != "random")]
    wanted = wanted[wanted["tokens"].map(len) > 0]
    if most is not None:
        wanted = wanted[wanted["index"] < most]
    prompts = ids.get("evaluation", [])
    if wanted.empty:
        return out
    # Arms often give one answer to one prompt: each is read once.
    places = {
        key: i
        for i, key in enumerate(
            dict.fromkeys(zip(wanted["index"], wanted["tokens"].map(tuple), strict=True))
        )
    }
    n = len(prompts)
    own = _score(model, [(prompts[i], t) for i, t in places], batch_size, progress)
    other = None
    if n > 1:
        pairs = [(prompts[(i + 1) % n], t) for i, t in places]
        other = _score(model, pairs, batch_size, progress)
    at = [places[i, tuple(t)] for i, t in zip(wanted["index"], wanted["tokens"], strict=True)]
    out.loc[wanted.index, "log_likelihood"] = [own[i] for i in at]
    if other is not None:
        lengths = wanted["tokens"].map(len).tolist()
        out.loc[wanted.index, "relevance"] = [
            (own[i] - other[i]) / length for i, length in zip(at, lengths, strict=True)
        ]
    return out


def _score(
    model: Model, pairs: Sequence[tuple[Any, Any]], batch_size: int, progress: bool
) -> list[float]:
    intervention, _ = model._steering(1)
    with bar("answers' likelihood", progress) as update:
        values = model.core.log_likelihood(
            [list(p) for p, _ in pairs],
            [list(t) for _, t in pairs],
            intervention=intervention,
            batch_rows=batch_size,
            progress=update,
        )
    return values.tolist()
