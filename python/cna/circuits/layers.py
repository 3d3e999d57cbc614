"""Where a behaviour lies by layer: by |delta| and by contribution, circuits of one size.

    delta[l, j]                               units of layer l's activations
    converted[l, j] = delta[l, j] (write . u) units of the residual stream along the answer's u
    contribution[l, j]                        the same units, see `contributions`

Only the units set the first two apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import _core
from ..base.errors import first_line
from ..base.html import frame_html, panel
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .form import Ids, are_ids, chat_of_ids, require_difference
from .layer_table import late_shares, layers_sentence
from .provenance import with_prompt_provenance
from .selection import select
from .size import circuit_size
from .universal import UniversalNeurons, universal_filter, universal_neurons

Moments = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class LayersByRanking:
    """Neurons per layer by |delta| and by contribution.

    Attributes:
        by_delta: the top k by |delta|.
        by_contribution: as many with the largest positive contributions, fewer where fewer are
            positive; None where the model does not know its weights.
        by_converted: as many by |delta| in the answer's units, or None.
        delta_sum: float64 [n_layers], the sum over all neurons of a layer of |delta|.
        converted_sum: the same of |delta| in the answer's units, or None.
        contribution_sum: the same of the positive contributions, or None.
        missing: why there are no contributions, in one line; "" where there are.
    """

    by_delta: _core.Circuit
    by_contribution: _core.Circuit | None
    by_converted: _core.Circuit | None
    delta_sum: np.ndarray
    converted_sum: np.ndarray | None
    contribution_sum: np.ndarray | None
    missing: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """A row per layer: `layer`, the neurons of each circuit (`delta_count`, `converted_count`,
        `contribution_count`) and the sums (`delta_sum`, `converted_sum`, `contribution_sum`).

        All but those of delta are NaN where the model does not know its weights.
        """
        layers = len(self.delta_sum)
        unknown = [float("nan")] * layers

        def counts(circuit: _core.Circuit | None) -> list[Any]:
            return unknown if circuit is None else list(circuit.layer_counts)

        return pd.DataFrame(
            {
                "layer": np.arange(layers),
                "delta_count": counts(self.by_delta),
                "converted_count": counts(self.by_converted),
                "contribution_count": counts(self.by_contribution),
                "delta_sum": self.delta_sum,
                "converted_sum": unknown if self.missing else self.converted_sum,
                "contribution_sum": unknown if self.missing else self.contribution_sum,
            }
        )

    @property
    def late(self) -> pd.DataFrame:
        """Shares of the last three layers and of the last quarter, see `late_shares`."""
        return late_shares(self.table)

    def __str__(self) -> str:
        sentence = layers_sentence(self.table)
        return f"{sentence} No contributions: {self.missing}" if self.missing else sentence

    def _repr_html_(self) -> str:
        layers = len(self.delta_sum)
        return panel(
            [frame_html(self.late, caption=str(self)), frame_html(self.table, most=layers)]
        )


def layers_by_ranking(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    fraction: float = 0.001,
    k: int | None = None,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    penalty: float = 0.1,
    batch_size: int = 64,
    share_prefix: bool = True,
    progress: bool = True,
) -> LayersByRanking:
    """The circuits of one behaviour by |delta| and by contribution, and where each of them sits.

    They are those of `cna.discover` with `ranking="mean_difference"` and `"contribution"`, and one by
    |delta| in the answer's units. Both sets are recorded four times.

    Args:
        fraction, k, universal, chat, penalty: as in `cna.discover`.
    Raises:
        ValueError: bad prompts, two sets that the model sees or answers alike, a size beyond the
            grid, or a negative penalty.
        RuntimeError: NaN or infinity in the activations. A model that does not know its weights is
            no error: its contributions are None.
    """
    function = "layers_by_ranking"
    circuit_size((model.n_layers, model.width), fraction, k, function=function)
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    require_difference(*sides, function)
    ids = are_ids(positive) and are_ids(negative)
    form = chat_of_ids(model, *sides) if ids and chat is None else chat
    removed = universal_filter(
        universal,
        lambda: universal_neurons(model, chat=form, batch_size=batch_size, progress=progress),
        function,
    )
    intervention, _ = model._steering(1)
    run: dict[str, Any] = {
        "intervention": intervention,
        "batch_rows": batch_size,
        "share_prefix": share_prefix,
    }
    with bar("layers by |delta|", progress) as update:
        moments = model.core.contrast(*sides, **run, progress=update)
    found = select(model, moments, removed, fraction=fraction, k=k, ranking="mean_difference")
    templated = not ids and model.uses_chat(chat)
    by_delta = with_prompt_provenance(found, model, sides, removed, templated)
    left_out = list(removed.neurons) if removed else []
    return beside_contribution(
        model, sides, moments, by_delta, left_out, penalty=penalty, progress=progress, **run
    )


def beside_contribution(
    model: Model,
    sides: tuple[list[list[int]], list[list[int]]],
    moments: Moments,
    by_delta: _core.Circuit,
    left_out: list[tuple[int, int]],
    *,
    penalty: float = 0.1,
    progress: bool = True,
    **run: Any,
) -> LayersByRanking:
    """A circuit by |delta|, and beside it those of the same size by contribution.

    Args:
        sides: token ids of the positive and of the negative prompts.
        moments: of both sides, as `Model.core.contrast` gives them; by_delta was selected of them.
        left_out: (layer, index) of neurons that no circuit may take.
        run: for `Model.core.contributions`.
    Raises:
        ValueError, RuntimeError: as `layers_by_ranking`.
    """
    delta = moments[0]["mean"] - moments[1]["mean"]
    delta_sum = delta.abs().sum(1).numpy()
    said = by_delta.provenance

    def scores(positive: Ids, negative: Ids, penalty: float) -> Tensor:
        with bar("layers by contribution", progress) as update:
            score, _ = model.core.contributions(
                positive, negative, penalty=penalty, **run, progress=update
            )
        return score.cpu()

    def found(score: Tensor, ranking: str, penalty: float | None) -> _core.Circuit:
        circuit = _largest(model, score, delta, len(by_delta), left_out)
        more = {"ranking": ranking, "penalty": penalty, "k": len(circuit)}
        return circuit.with_provenance(**{**said, **more})

    try:
        taken = scores(*sides, penalty)
    except _core.NonFiniteError:
        raise
    except RuntimeError as error:  # the model does not know its weights
        return LayersByRanking(by_delta, None, None, delta_sum, None, None, first_line(error))
    plain = taken if penalty == 0 else scores(*sides, 0.0)
    # mean+ (write . u), and with the sets exchanged mean- (write . -u).
    converted = plain + scores(sides[1], sides[0], 0.0)
    positive = taken.clamp(min=0)
    return LayersByRanking(
        by_delta,
        found(positive, "contribution", penalty),
        found(converted, "mean_difference in the answer's units", None),
        delta_sum,
        converted.abs().sum(1).numpy(),
        positive.sum(1).numpy(),
    )


def _largest(
    model: Model, score: Tensor, delta: Tensor, k: int, left_out: list[tuple[int, int]]
) -> _core.Circuit:
    """The k neurons of the largest |scores|, fewer where fewer are not 0; with their deltas."""
    allowed = score.clone()
    for place in left_out:
        allowed[place] = 0.0
    k = min(k, int(allowed.count_nonzero()))
    if k == 0:
        return _core.Circuit((score.shape[0], score.shape[1]), [])
    # The core ranks a difference of two means: the scores' own, less nothing.
    nothing = torch.zeros_like(score)
    own, none = ({"count": 1, "mean": mean, "m2": nothing} for mean in (score, nothing))
    best = model.core.select(own, none, k=k, universal=left_out)
    neurons = [_core.Neuron(n.layer, n.index, float(delta[n.layer, n.index])) for n in best.neurons]
    return _core.Circuit(best.shape, neurons, {}, best.universal_removed)
