"""Tables of behaviour and quality: a sweep's numbers beside the printed and the logged ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..base.later import pd
from ..measure.kinds import with_kinds


def _as_in_paper(table: pd.DataFrame) -> pd.DataFrame:
    """The paper counts what the judge alone says, broken text or not; its quality is that of words."""
    columns = {"rate": "judged", "quality": "word_quality"}
    ends = ("", "_low", "_high")
    given = {
        f"{name}{end}": table[f"{own}{end}"]
        for name, own in columns.items()
        if own in table
        for end in ends
    }
    return with_kinds(table).assign(**given)


def _row(table: pd.DataFrame, method: str, strength: float) -> Any:
    return table[(table.method == method) & (table.strength == strength)].iloc[0]


def refusal_table(table: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """Rate at m = 1 and m = 0 and the change, from a sweep's table, beside tables 1 to 3.

    `change` is after - before, `relative change` is that over before; its p value is McNemar's.
    """
    table = _as_in_paper(table)
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
    table = _as_in_paper(table)
    for row in table[table.kind != "random"].to_dict("records"):
        neurons, strength = row["method"] == "cna", f"{row['strength']:g}"
        paper_rate = paper_quality = math.nan
        key = "cna_by_multiplier" if neurons else "caa_by_alpha"
        if neurons and row["alpha"] == 0:
            paper_rate = printed.get("baseline_rate", math.nan)
        if row["alpha"] == 1 and row["method"] in ("cna", "caa-mlp"):
            method = "cna" if neurons else "caa"
            paper_rate = printed.get(f"{method}_rate", math.nan)
            paper_quality = printed.get(f"{method}_quality", math.nan)
        logged = {} if row["method"] == "caa" else log_rate.get(key, {})
        logged_quality = {} if row["method"] == "caa" else log_quality.get(key, {})
        rows.append(
            {
                "method": row["method"],
                "layer": row["layer"],
                "multiplier": row["strength"] if neurons else math.nan,
                "alpha": row["alpha"],
                "paper_rate": paper_rate,
                "log_rate": logged.get(strength, math.nan),
                "rate": row["rate"],
                "rate_low": row["rate_low"],
                "rate_high": row["rate_high"],
                "paper_quality": paper_quality,
                "log_quality": logged_quality.get(strength, math.nan),
                "composite": row["composite"],
                "quality": row["quality"],
                "quality_low": row["quality_low"],
                "quality_high": row["quality_high"],
            }
        )
    return _in_order(pd.DataFrame(rows))


def controls_table(table: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """The circuit and random neurons switched off. The paper reports no such control."""
    rows = []
    for row in _as_in_paper(table).to_dict("records"):
        random = row["kind"] == "random"
        if not random and not (row["method"] == "cna" and row["strength"] in (0.0, 1.0)):
            continue
        draw = f"{row['method']}-{row['draw']:.0f}" if random else "circuit"
        rows.append(
            {
                "neurons": "none" if row["strength"] == 1 else draw,
                "multiplier": row["strength"],
                "alpha": row["alpha"],
                "paper_rate": math.nan,
                "rate": row["rate"],
                "rate_low": row["rate_low"],
                "rate_high": row["rate_high"],
                "quality": row["quality"],
                "p_value": row["p_value"],
            }
        )
    return pd.DataFrame(rows)


def accuracy_table(table: pd.DataFrame, entry: Mapping[str, Any]) -> pd.DataFrame:
    """Questions answered right at every alpha, beside figure 2, which prints no number for a model.

    `change` is from the unsteered model's accuracy; the paper says that neurons stay within 0.01 of
    it and that vectors come near 0 at alpha = 1.
    """
    shown = table[table.kind != "random"]
    plain = float(_row(shown, "cna", 1.0).accuracy)
    columns = ["method", "layer", "alpha", "accuracy", "accuracy_low", "accuracy_high"]
    out = shown[columns].copy()
    out["change"] = out["accuracy"] - plain
    return _in_order(out)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Neurons first, then vectors, each by layer and alpha."""
    table["layer"] = table["layer"].astype("Int64")
    rank = {"cna": 0, "caa-mlp": 1, "caa": 2}
    order = table.assign(_rank=table.method.map(rank)).sort_values(["_rank", "layer", "alpha"])
    return order.drop(columns="_rank").reset_index(drop=True)
