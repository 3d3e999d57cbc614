"""How well a score tells two sets of prompts apart: ROC, its area, and rates at a given cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.later import pd

Floats = NDArray[np.float64]
Scores = Sequence[float] | NDArray[Any]


def auroc(positive: Scores, negative: Scores) -> float:
    """Probability that a positive's score is above a negative's, ties counted half."""
    from scipy.stats import mannwhitneyu

    u = mannwhitneyu(positive, negative).statistic
    return float(u / (len(positive) * len(negative)))


def auroc_interval(
    positive: Scores, negative: Scores, *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of `auroc`, over bootstrap draws of the prompts of each set."""
    from scipy.stats import bootstrap

    def area(a: Any, b: Any, axis: int) -> Any:
        above = (a[..., :, None] > b[..., None, :]).mean((-2, -1))
        return above + (a[..., :, None] == b[..., None, :]).mean((-2, -1)) / 2

    if len(positive) < 2 or len(negative) < 2:
        return 0.0, 1.0
    found = bootstrap(
        (np.asarray(positive, float), np.asarray(negative, float)),
        area,
        n_resamples=draws,
        batch=100,
        vectorized=True,
        axis=-1,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def roc(positive: Scores, negative: Scores) -> pd.DataFrame:
    """Columns threshold, false_positives, true_positives: shares of either set at or above each score.

    From nothing (threshold infinity) to everything, one row a distinct score.
    """
    a, b = np.asarray(positive, float), np.asarray(negative, float)
    thresholds = np.append(np.inf, np.unique(np.concatenate([a, b]))[::-1])
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "false_positives": [float((b >= t).mean()) for t in thresholds],
            "true_positives": [float((a >= t).mean()) for t in thresholds],
        }
    )


def rate_at(curve: pd.DataFrame, false_positives: float) -> float:
    """The largest share of positives that a threshold finds at no more than this share of negatives."""
    within = curve[curve["false_positives"] <= false_positives]
    return float(within["true_positives"].max())
