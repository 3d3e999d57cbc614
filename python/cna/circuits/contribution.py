"""Contributions: every neuron's score in the units of the answer."""

from __future__ import annotations

from torch import Tensor

from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .form import require_difference


def contributions(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    penalty: float = 0.1,
    chat: bool | None = None,
    batch_size: int = 64,
    share_prefix: bool = True,
    progress: bool = True,
) -> Tensor:
    """What zeroing each neuron takes from the positive prompts' answers, less what it disturbs.

        score[l, j] = mean+(a) (write . u) - penalty * mean-(|a|) ||write||
        u           = W_U^T (p+ - p-) * gain of the final norm, of unit length

    write is the neuron's column of the down projection (scaled by the norm behind the MLP where there
    is one), p+ and p- are the mean probabilities of the next token behind either set. Forward passes
    only, linear in the neuron: what later layers make of a write is not in it.

    Returns:
        float64 [n_layers, width]; `cna.discover(..., ranking="contribution")` takes the largest.
    Raises:
        ValueError: bad prompts, two sets that the model sees or answers alike, a negative penalty.
        RuntimeError: a model whose weights are not known: a bare TorchScript file, an older export,
            or one whose norms were not found.
    """
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    require_difference(*sides)
    intervention, _ = model._steering(1)
    with bar("contributions", progress) as update:
        parts = model.core.contribution_parts(
            *sides,
            intervention=intervention,
            batch_rows=batch_size,
            share_prefix=share_prefix,
            progress=update,
        )
    return parts.score(penalty)
