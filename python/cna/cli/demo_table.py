"""The table of a demo: outcomes, side effect and two answers of each setting, from the run's files."""

from __future__ import annotations

from typing import Any

from .._core import Circuit
from ..base.later import pd
from ..measure.kinds import KINDS

_NAMES = {
    "cna": "circuit by delta",
    "contribution": "circuit by contribution",
    "caa": "CAA",
    "caa-answer": "CAA, from the answer on",
    "prompt": "instruction",
    "logit-bias": "logit bias",
    "random": "random, as many per layer",
    "random-kl": "random, of equal KL",
}


def markdown(
    table: pd.DataFrame, answers: pd.DataFrame, controls: pd.DataFrame, circuit: Circuit
) -> str:
    """The table as Markdown: one row per setting, one per control, then two answers per setting.

    The answers are those to the first two evaluation prompts.
    """
    size, last = len(circuit), circuit.layer_counts[-1]
    layers, width = circuit.shape
    lines = [
        f"The circuit: {size} of {layers * width:,} neurons, {last} of them in the last layer.",
        "",
        "| setting | behaviour (95 %) | other | broken | KL, benign (95 %) | perplexity | relevance |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    rows = table[table["kind"] != "random"]
    for row in rows.to_dict("records"):
        low, high = row["kl_benign_low"], row["kl_benign_high"]
        lines.append(
            f"| {setting(row)} | {row['rate']:.2f} [{row['rate_low']:.2f}, {row['rate_high']:.2f}] "
            f"| {row['other']:.2f} | {row['broken']:.2f} "
            f"| {row['kl_benign']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {row['answer_perplexity']:.1f} | {row['relevance']:.2f} |"
        )
    for row in controls.to_dict("records"):
        name = _NAMES[row["control"]]
        lines.append(
            f"| {name}, {row['draws']} draws on {row['n']} prompts | {row['median']:.2f}, "
            f"{row['lowest']:.2f} to {row['highest']:.2f}; the circuit {row['rate']:.2f}, "
            f"p = {row['p_empirical']:.2f} | | | {row['kl_benign']:.3f} | | |"
        )
    return "\n".join([*lines, "", *_examples(rows, answers)]) + "\n"


def setting(row: dict[str, Any]) -> str:
    """A setting in words: the model, circuit m = 0, CAA layer 20 c = −0.5."""
    if row["kind"] == "model":
        return "the model"
    name = _NAMES.get(row["method"], row["method"])
    layer = "" if pd.isna(row["layer"]) else f" layer {row['layer']:.0f}"
    sign = KINDS[row["kind"]].symbol
    strength = f" {sign} = {row['strength']:g}".replace("-", "−") if sign else ""
    return f"{name}{layer}{strength}"


def _examples(rows: pd.DataFrame, answers: pd.DataFrame) -> list[str]:
    asked = answers[(answers["set"] == "evaluation") & (answers["kind"] != "random")]
    prompts = asked.drop_duplicates("index").sort_values("index")["prompt"].head(2).tolist()
    lines = ["| setting | " + " | ".join(map(_cell, prompts)) + " |"]
    lines.append("| --- |" + " --- |" * len(prompts))
    for row in rows.to_dict("records"):
        same = (asked["method"] == row["method"]) & (asked["strength"] == row["strength"])
        same &= asked["layer"].isna() if pd.isna(row["layer"]) else asked["layer"] == row["layer"]
        said = asked[same].set_index("prompt")["answer"]
        cells = [_cell(str(said.get(p, "")), 90) for p in prompts]
        lines.append(f"| {setting(row)} | " + " | ".join(cells) + " |")
    return lines


def _cell(text: str, most: int = 200) -> str:
    """One line of a table, cut where it is long."""
    flat = " ".join(text.split()).replace("|", "/").replace("<", "‹").replace("`", "'")
    return flat if len(flat) <= most else flat[: most - 1] + "…"
