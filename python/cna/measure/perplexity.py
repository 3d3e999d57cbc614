"""Perplexity of a fixed text under a steered model: whether it still knows the language."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources

import torch

from .. import _core
from ..hosts.model import Model

Update = Callable[[int, int], None] | None


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
    return torch.exp(-likelihood.sum(1) / tokens).tolist()
