"""Kinds of steering: what a strength means, and at which one a method changes nothing."""

from __future__ import annotations

import dataclasses
import re

from ..base.later import pd


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the strengths of a kind are.

    Attributes:
        symbol: stands before a strength: m, c or b; "" where a method is given or not.
        neutral: the strength that changes nothing.
        unit: the strength in one word.
        axis: the strength on an axis of a figure.
    """

    symbol: str
    neutral: float
    unit: str
    axis: str


_M = "multiplier m of the circuit's neurons (1: unsteered, 0: ablated)"
_C = "coefficient of the added vector (0: unsteered)"
_SHARE = "share c of the way to the other set (0: unsteered)"
KINDS = {
    "model": Kind("m", 1.0, "multiplier", _M),
    "circuit": Kind("m", 1.0, "multiplier", _M),
    "shift": Kind("c", 0.0, "share", _SHARE),
    "towards": Kind("c", 0.0, "share", _SHARE),
    "random": Kind("m", 1.0, "multiplier", _M),
    "vector": Kind("c", 0.0, "coefficient", _C),
    "logit_bias": Kind("b", 0.0, "bias", "coefficient of the bias on the logits (0: unsteered)"),
    "prompt": Kind("", 0.0, "instruction", "instruction before the prompt (0: none, 1: given)"),
}

# The methods that cna itself names; a method of your own says its kind.
_OWN = {
    "cna": "circuit",
    "no-filter": "circuit",
    "contribution": "circuit",
    "delta": "circuit",
    "random-kl": "random",
    "caa": "vector",
    "caa-answer": "vector",
    "caa-mlp": "vector",
    "prompt": "prompt",
    "logit-bias": "logit_bias",
    "unsteered": "model",
}
_OLD_DRAW = re.compile(r"random(?:-(\d+))?")


def require_kind(kind: str, function: str) -> str:
    """The name of a kind; ValueError for another."""
    if kind not in KINDS:
        raise ValueError(
            f"{function}: expected a kind of {', '.join(KINDS)}, got {kind!r}; choose one"
        )
    return kind


def own_kind(method: str) -> str:
    """The kind of a method of cna's own, by its whole name; "circuit" for another."""
    if _OLD_DRAW.fullmatch(method):
        return "random"
    return _OWN.get(method, "circuit")


def with_kinds(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a sweep with `kind` and `neutral`, older runs' columns under today's names.

    Older runs have no kinds: there the methods are those of `own_kind`, the draws of random neurons
    methods of their own, and `kl` is what is `kl_evaluation` today.
    """
    out = table.copy()
    if "kl" in out and "kl_evaluation" not in out:
        out = out.rename(columns={"kl": "kl_evaluation"})
    if "kind" not in out:
        methods = out["method"].astype(str)
        out["kind"] = methods.map(own_kind)
        if (out["kind"] == "random").any():
            draws = methods.str.extract(f"^{_OLD_DRAW.pattern}$")[0].astype("Float64")
            out["draw"] = draws.astype("float64")
            out["method"] = methods.where(out["kind"] != "random", "random")
    for kind in out["kind"].unique():
        require_kind(kind, "table")
    if "neutral" not in out:
        out["neutral"] = [KINDS[kind].neutral for kind in out["kind"]]
    return out


def is_unsteered(table: pd.DataFrame) -> pd.Series:
    """True for rows of the model itself, of a table with kinds."""
    strength = pd.to_numeric(table["strength"], errors="coerce")
    return (strength == table["neutral"]) | (table["kind"] == "model")
