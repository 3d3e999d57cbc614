"""The interval of a mean, by resampling the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_RESAMPLES = 9999
_BATCH = 2**21  # values resampled at once: 16 MiB


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, never outside the values' own range.

    The draws are the same on every call. (nan, nan) for fewer than two values, or where one is NaN.
    """
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2 or np.isnan(x).any():
        return math.nan, math.nan
    interval = stats.bootstrap(
        (x,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH // len(x)),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = np.clip([interval.low, interval.high], x.min(), x.max())  # a mean may round past
    return float(low), float(high)
