"""Figures of a reproduction: strengths, accuracy, and layers beside the authors' log."""

from __future__ import annotations

import base64

from ..base.later import pd
from ..measure.result import SweepResult


def figures_of(tables: dict[str, pd.DataFrame], sweep: SweepResult | None) -> dict[str, bytes]:
    """{name: PNG} of what was measured; matplotlib is imported here.

    "strengths" and "quality" are the paper's figure 1, "accuracy" its figure 2, and
    "layers-<model>-<task>" its figure 3, with the authors' logged counts as dots where there are any.
    """
    from ..show.plots import (
        accuracy_by_alpha,
        dose_response,
        layers_by_ranking,
        png,
        quality_against_effect,
    )

    out = {}
    if "quality" in tables and sweep is not None:
        shown = sweep.table[sweep.table["kind"] != "random"]
        out["strengths"] = png(dose_response(shown))
        out["quality"] = png(quality_against_effect(shown))
    if "mmlu" in tables:
        out["accuracy"] = png(accuracy_by_alpha(tables["mmlu"]))
    if "layer_counts" in tables:
        named = tables["layer_counts"].rename(columns={"count": "delta_count"})
        for (model, task), part in named.groupby(["model", "task"], sort=False):
            drawn = layers_by_ranking(part.reset_index(drop=True))
            out[f"layers-{model}-{task}"] = png(drawn)
    return out


def as_page_images(figures: dict[str, bytes]) -> list[dict[str, str]]:
    """Caption and base64 of each, for the page's template."""
    return [
        {"caption": name.replace("-", " "), "data": base64.b64encode(data).decode("ascii")}
        for name, data in figures.items()
    ]
