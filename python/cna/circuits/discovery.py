"""Discovery: two sets of prompts in, a circuit with provenance out."""

from __future__ import annotations

from .. import _core
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .provenance import with_prompt_provenance
from .universal import UniversalNeurons, universal_neurons


def discover(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    fraction: float = 0.001,
    k: int | None = None,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    ranking: str = "mean_difference",
    batch_size: int = 64,
    share_prefix: bool = True,
    progress: bool = True,
) -> _core.Circuit:
    """The circuit that tells positive from negative prompts: top k neurons by |delta|.

    delta[l, j] = mean of a[l, j] over positive prompts - mean over negative ones (equation 1 of
    arXiv 2605.12290), at the last token, means in float64, all layers ranked together.

    Args:
        fraction: of all n_layers * width neurons; k = max(1, round(fraction * n_layers * width)).
        k: number of neurons instead of a fraction.
        universal: neurons removed before the top k is taken, so the circuit keeps its size:
            "default" counts them on built-in prompts, None removes none, or pass the result of
            `cna.universal_neurons`.
        ranking: "mean_difference", or "effect_size" (delta over the pooled standard deviation).
    Raises:
        ValueError: bad prompts, fraction outside (0, 1], or k beyond the grid.
        RuntimeError: NaN or infinity in the activations.
    """
    check_size(model, fraction, k)
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    removed: UniversalNeurons | None = None
    if isinstance(universal, UniversalNeurons):
        removed = universal
    elif universal == "default":
        removed = universal_neurons(model, chat=chat, batch_size=batch_size, progress=progress)
    elif universal is not None:
        raise ValueError(
            f"discover: expected universal='default', None or cna.universal_neurons(...), got "
            f"{universal!r}; choose one"
        )
    intervention, _ = model._steering(1)
    with bar("discover", progress) as update:
        circuit = model.core.discover(
            *sides,
            fraction=fraction,
            k=k,
            universal=list(removed.neurons) if removed else [],
            ranking=ranking,
            intervention=intervention,
            batch_rows=batch_size,
            share_prefix=share_prefix,
            progress=update,
        )
    return with_prompt_provenance(circuit, model, sides, removed, chat)


def check_size(model: Model, fraction: float, k: int | None) -> None:
    """Raises ValueError unless `fraction` and `k` name a possible size of a circuit."""
    if k is not None and (isinstance(k, bool) or k != int(k)):
        raise ValueError(f"discover: expected a whole number for k, got {k}; pass an int")
    if not 0 < fraction <= 1:
        raise ValueError(
            f"discover: expected a fraction above 0 and up to 1, got {fraction}; 0.001 is the paper's"
        )
    size = model.n_layers * model.width
    if k is not None and not 1 <= k <= size:
        raise ValueError(
            f"discover: expected k between 1 and {size} neurons, got {k}; choose another k"
        )
