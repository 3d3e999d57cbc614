"""Quality of a steered model: perplexity of a fixed text, and intervals of means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import resources

import numpy as np
import torch

from .. import _core
from ..hosts.model import Model

Update = Callable[[int, int], None] | None


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student-t interval of a mean; (nan, nan) for fewer than two values."""
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return math.nan, math.nan
    half = stats.t.ppf(0.5 + confidence / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def fixed_text(
    model: Model, intervention: _core.Intervention, batch_size: int = 64, update: Update = None
) -> list[float]:
    """Perplexity of a short text that ships with cna, one value per arm of the intervention.

    The text is read raw, paragraph by paragraph; exp of the mean negative log-likelihood per token.
    """
    text = (
        resources.files("cna.prompts").joinpath("data/fixed_text.txt").read_text(encoding="utf-8")
    )
    paragraphs = [p.strip() for p in text.split("\n\n") if p.strip()]
    if model.tokenizer is None:
        return [math.nan] * intervention.arms
    ids = model.tokenize(paragraphs, chat=False)
    if model.core.max_positions:
        ids = [p[: model.core.max_positions] for p in ids]
    total = torch.zeros(intervention.arms, dtype=torch.float64)
    tokens = sum(len(p) - 1 for p in ids)
    first, rest = [p[:1] for p in ids], [p[1:] for p in ids]
    _, likelihood = model.core.divergence(
        first,
        rest,
        intervention=intervention,
        batch_rows=batch_size,
        share_prefix=False,
        progress=update,
    )
    total = likelihood.sum(1)
    return torch.exp(-total / tokens).tolist()
