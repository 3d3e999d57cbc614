"""A gate looks at a prompt before it is answered: steer it, or leave it alone?

    score = sum over the circuit of sign(delta) * (a - mean) / sd     at the last prompt token

Prompts whose score does not pass the threshold are answered by the model as it is, bit for bit.
"""

from __future__ import annotations

from .. import _core
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts


def fit_gate(
    model: Model,
    circuit: _core.Circuit,
    positive: Prompts,
    negative: Prompts,
    *,
    false_positives: float = 0.05,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> _core.Gate:
    """A gate for `model.steer(..., gate=gate)`, fitted on discovery prompts.

    Args:
        false_positives: share of the negative prompts that may pass; the threshold is the lowest one
            that keeps to it.
    Returns:
        Gate: `threshold`, and `true_positives` and `false_positives`, the shares of either set that
        pass, on these prompts: what it does on others, `gate.scores(model.core, ids)` tells.
    Raises:
        ValueError: an empty circuit or set, or a share outside [0, 1).
    """
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    intervention, _ = model._steering(1)
    with bar("gate", progress) as update:
        return _core.Gate.fit(
            model.core,
            circuit,
            *sides,
            false_positives,
            intervention=intervention,
            batch_rows=batch_size,
            progress=update,
        )
