"""Discovery: two sets of prompts in, a circuit with provenance out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import _core
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .form import two_sets
from .provenance import with_prompt_provenance
from .selection import ALL_RANKINGS, layer_range, require_ranking, select
from .size import circuit_size
from .universal import UniversalNeurons, universal_filter, universal_neurons


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
    penalty: float = 0.1,
    side: str | None = None,
    layers: Sequence[int] | range | None = None,
    direction: Tensor | None = None,
    direction_layer: int | None = None,
    batch_size: int = 64,
    share_prefix: bool = True,
    progress: bool = True,
) -> _core.Circuit:
    """The circuit that tells positive from negative prompts: top k neurons by |delta|.

    delta[l, j] = mean of a[l, j] over positive prompts - mean over negative ones (equation 1 of
    arXiv 2605.12290), at the last token, means in float64, all layers ranked together.

    Args:
        fraction: of all neurons; k = max(1, round(fraction * n_neurons)).
        k: number of neurons instead of a fraction.
        universal: neurons removed before the top k is taken, so the circuit keeps its size:
            "default" counts them on built-in prompts, None removes none, or pass the result of
            `cna.universal_neurons`.
        ranking: "mean_difference", the paper's; "effect_size", delta over the pooled standard
            deviation; "contribution", see `cna.contributions`; "residual", delta * |write| over the
            mean norm of the layer's residual stream; "direction", delta * (write . v) / |v|, where
            v is the residual stream's difference of means behind `direction_layer`, or `direction`.
        penalty: of a contribution, the weight of what the neuron writes on negative prompts.
        side: "both" takes the largest scores by magnitude, "positive" those that add to the
            behaviour only; by default "positive" for "contribution" and "direction".
        layers: (first, last) or a range, both ends counting; negative ones from the end. All by
            default.
        direction: [hidden_size], of any length; `direction_layer` is the layer that it lies behind,
            two thirds of the depth by default; neurons of later layers are not taken. The circuit's
            provenance has its `coverage`: the share of the scores' sum that it holds.
    Raises:
        ValueError: bad prompts, two sets that the model sees alike, fraction outside (0, 1], k
            beyond the grid or the neurons that may be chosen, or an unknown ranking or side.
        IndexError: layers that the model does not have.
        RuntimeError: NaN or infinity in the activations; a model whose weights are not known, for
            all rankings but the first two.

    Inside `with model.steer(...)` the steered model is looked at; the circuit's provenance says so.
    Of prompts as token ids, universal neurons are counted on chat prompts where the ids begin and
    end as the chat template writes them, else on raw text. Warns where all deltas are at rounding.
    """
    circuit_size(model.n_neurons, fraction, k)
    require_ranking(ranking, known=ALL_RANKINGS)
    how: dict[str, Any] = {
        "ranking": ranking,
        "penalty": penalty,
        "side": side,
        "layers": layer_range(layers, model.n_layers),
        "direction": direction,
        "direction_layer": direction_layer,
    }
    sets = two_sets(model, positive, negative, chat)
    removed = universal_filter(
        universal,
        lambda: universal_neurons(model, chat=sets.chat, batch_size=batch_size, progress=progress),
    )
    intervention, _ = model._steering(1)
    with bar("discover", progress) as update:
        moments, score = model.core.scores(
            *sets.sides,
            **how,
            intervention=intervention,
            batch_rows=batch_size,
            share_prefix=share_prefix,
            progress=update,
        )
    circuit = select(model, moments, removed, score, fraction=fraction, k=k, **how)
    return with_prompt_provenance(circuit, model, sets.sides, removed, sets.templated)
