"""Settings chosen on one half of the prompts and shown on the other."""

from __future__ import annotations

import math
from typing import Any

from .. import _core
from ..base.later import pd
from .kinds import is_unsteered, with_kinds

_ARM = ["method", "layer", "strength"]


def choose(answers: pd.DataFrame, max_kl: float = 0.1) -> pd.DataFrame:
    """The best setting of each method under a bound on its side effect.

    Chosen on the prompts of even number and shown on those of odd number: the largest share of
    other answers (neither the behaviour nor broken) whose benign KL is at most `max_kl`, both on the
    even prompts. A method without such a setting shows its least disturbing one, `within` False.

    Args:
        answers: of a sweep that measured the benign KL.
        max_kl: nats per token.
    Returns:
        One row per method: its setting and `kind`; `within`; `chosen_other` and `chosen_kl` on the
        even prompts; `n`, `rate`, `rate_low`, `rate_high`, `other`, `broken` and `kl_benign` on the
        odd ones.
    """
    if "outcome" not in answers or "answer_kl" not in answers:
        raise ValueError(
            "choose: expected answers with the columns outcome and answer_kl, got an older run; "
            "sweep again"
        )
    frame = with_kinds(answers)
    frame = frame[~is_unsteered(frame) & (frame["kind"] != "random")]
    rows = []
    for _, mine in frame.groupby("method", sort=False):
        settings = [
            (key, _half(part, 0), part)
            for key, part in mine.groupby(_ARM, dropna=False, sort=False)
        ]
        settings = [s for s in settings if not math.isnan(s[1]["kl"])]
        if not settings:
            continue
        fit = [s for s in settings if s[1]["kl"] <= max_kl]
        key, chosen, part = max(fit, key=_gain) if fit else min(settings, key=_kl)
        shown = _half(part, 1)
        n = shown["n"]
        low, high = _core.wilson_interval(shown["hits"], n) if n else (math.nan, math.nan)
        rows.append(
            {
                **dict(zip(_ARM, key, strict=True)),
                "kind": part["kind"].iloc[0],
                "within": bool(fit),
                "chosen_other": chosen["other"],
                "chosen_kl": chosen["kl"],
                "n": n,
                "rate": shown["rate"],
                "rate_low": low,
                "rate_high": high,
                "other": shown["other"],
                "broken": shown["broken"],
                "kl_benign": shown["kl"],
            }
        )
    return pd.DataFrame(rows)


def _gain(setting: tuple[Any, dict[str, float], pd.DataFrame]) -> tuple[float, float]:
    return setting[1]["other"], -setting[1]["kl"]


def _kl(setting: tuple[Any, dict[str, float], pd.DataFrame]) -> float:
    return setting[1]["kl"]


def _half(rows: pd.DataFrame, odd: int) -> dict[str, Any]:
    rows = rows[rows["index"] % 2 == odd]
    evaluation, benign = rows[rows["set"] == "evaluation"], rows[rows["set"] == "benign"]
    n = len(evaluation)
    shares = {o: (evaluation["outcome"] == o).mean() for o in ("behaviour", "other", "broken")}
    return {
        "n": n,
        "hits": int((evaluation["outcome"] == "behaviour").sum()),
        "rate": shares["behaviour"],
        "other": shares["other"],
        "broken": shares["broken"],
        "kl": pd.to_numeric(benign["answer_kl"], errors="coerce").mean(),
    }
