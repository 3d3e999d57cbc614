"""Figures of a reproduction: layers by |delta| beside layers by contribution, one for each circuit."""

from __future__ import annotations

import base64

import pandas as pd


def layer_figures(counts: pd.DataFrame | None) -> dict[str, bytes]:
    """{"layers-<model>-<task>": PNG} of the table "layer_counts"; matplotlib is imported here."""
    if counts is None:
        return {}
    from ..show.plots import layers_by_ranking, png

    named = counts.rename(columns={"count": "delta_count"})
    return {
        f"layers-{model}-{task}": png(layers_by_ranking(part.reset_index(drop=True)))
        for (model, task), part in named.groupby(["model", "task"], sort=False)
    }


def as_page_images(figures: dict[str, bytes]) -> list[dict[str, str]]:
    """Caption and base64 of each, for the page's template."""
    return [
        {"caption": name.replace("-", " "), "data": base64.b64encode(data).decode("ascii")}
        for name, data in figures.items()
    ]
