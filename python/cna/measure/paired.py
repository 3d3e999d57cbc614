"""Paired tests between arms, corrected for their number, and a circuit against random draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import _core
from ..base.later import pd
from .kinds import is_unsteered, with_kinds

Setting = str | tuple[Any, ...]
_ARM = ["method", "layer", "strength", "draw"]


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of p values; NaN stays NaN and does not count."""
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    out, worst = list(values), 0.0
    for rank, (p, i) in enumerate(known):
        worst = max(worst, min(1.0, (len(known) - rank) * p))
        out[i] = worst
    return out


def compare(
    answers: pd.DataFrame, against: Setting | None = None, outcome: str = "behaviour"
) -> pd.DataFrame:
    """Every arm against one, prompt by prompt: exact McNemar tests with Holm's correction.

    Args:
        answers: of a sweep.
        against: (method, strength) or (method, layer, strength), or a method with one strength; the
            unsteered model by default.
        outcome: "behaviour", "other" or "broken".
    Returns:
        One row per other arm but single draws of random neurons: n prompts that both answered,
        `gained` and `lost` of them that show the outcome under the arm only and under the other
        only, `difference` (gained - lost) / n, `p_value` and `p_holm`, which is corrected for all
        rows of the table.
    """
    frame = _evaluation(answers, "compare")
    reference = frame[_reference(frame, against)]
    if reference.empty:
        raise ValueError(
            f"compare: expected an arm of the sweep, got {against!r}; name its method, layer and "
            "strength"
        )
    if len(arms := reference[_ARM].drop_duplicates()) > 1:
        raise ValueError(
            f"compare: expected one arm, got {len(arms)} for {against!r}; name its layer and "
            "strength too"
        )
    base = reference.set_index("index")["outcome"] == outcome
    rows = []
    for key, part in frame.groupby(_ARM, dropna=False, sort=False):
        if part["kind"].iloc[0] == "random" or part.index.equals(reference.index):
            continue
        mine = part.set_index("index")["outcome"] == outcome
        both = mine.index.intersection(base.index)
        a, b = mine[both].to_numpy(bool), base[both].to_numpy(bool)
        gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
        rows.append(
            {
                **dict(zip(_ARM[:3], key, strict=False)),
                "against": _name(reference.iloc[0]),
                "n": len(both),
                "gained": gained,
                "lost": lost,
                "difference": (gained - lost) / len(both) if len(both) else math.nan,
                "p_value": _core.mcnemar_exact(gained, lost),
            }
        )
    columns = [*_ARM[:3], "against", "n", "gained", "lost", "difference", "p_value"]
    out = pd.DataFrame(rows, columns=columns)
    out["p_holm"] = holm(list(out["p_value"]))
    return out


def controls(table: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The circuit against the draws of random neurons, by what share keeps the behaviour.

    Returns:
        One row per control: `draws`, the circuit's `rate` on the prompts that the draws answered,
        the draws' `lowest`, `median` and `highest` rate, `kl_benign` (median) beside the circuit's
        `circuit_kl`, and the empirical p = (1 + draws whose rate is as low or lower) / (1 + draws);
        one-sided.
    """
    table, frame = with_kinds(table), _evaluation(answers, "controls")
    rows = []
    for method, draws in table[table["kind"] == "random"].groupby("method", sort=False):
        mine = frame[(frame["method"] == method) & (frame["kind"] == "random")]
        if mine.empty:
            continue
        circuit = table[(table["method"] == "cna") & (table["kind"] == "circuit")]
        main = circuit.loc[circuit["strength"].abs().idxmin()] if len(circuit) else None
        if main is None:
            continue
        own = frame[(frame["method"] == "cna") & (frame["strength"] == main["strength"])]
        own = own[own["index"].isin(mine["index"].unique())]
        shows = own["outcome"] == "behaviour"
        rates = (mine["outcome"] == "behaviour").groupby(mine["draw"]).mean()
        lower = int((rates <= shows.mean()).sum())
        disturbance = draws.get("kl_benign", pd.Series(dtype=float))
        rows.append(
            {
                "control": method,
                "strength": main["strength"],
                "n": len(own),
                "draws": len(rates),
                "rate": shows.mean(),
                "lowest": rates.min(),
                "median": rates.median(),
                "highest": rates.max(),
                "circuit_kl": main.get("kl_benign", math.nan),
                "kl_benign": disturbance.median(),
                "p_empirical": (1 + lower) / (1 + len(rates)),
            }
        )
    return pd.DataFrame(rows)


def _evaluation(answers: pd.DataFrame, function: str) -> pd.DataFrame:
    """The evaluation answers with an outcome and every column of an arm."""
    if "outcome" not in answers:
        raise ValueError(
            f"{function}: expected answers with the column outcome, got an older run; sweep again"
        )
    frame = with_kinds(answers)
    for column in ("layer", "draw"):
        if column not in frame:
            frame[column] = math.nan
        frame[column] = pd.to_numeric(frame[column], errors="coerce").astype("float64")
    return frame[frame["set"] == "evaluation"]


def _reference(frame: pd.DataFrame, against: Setting | None) -> pd.Series:
    if against is None:
        first = frame[is_unsteered(frame)].head(1)
        against = () if first.empty else tuple(first[_ARM[:3]].iloc[0])
        if first.empty:
            return pd.Series(False, index=frame.index)
    if isinstance(against, str):
        return (frame["method"] == against) & ~is_unsteered(frame)
    method, *rest = against
    strength = rest[-1] if rest else math.nan
    layer = rest[0] if len(rest) > 1 else math.nan
    same = (frame["method"] == method) & (frame["strength"] == float(strength))
    return same & (frame["layer"].isna() if pd.isna(layer) else frame["layer"] == float(layer))


def _name(row: pd.Series) -> str:
    layer = "" if pd.isna(row["layer"]) else f" layer {row['layer']:.0f}"
    return f"{row['method']}{layer} {row['strength']:g}"
