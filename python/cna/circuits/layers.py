"""Where a behaviour lies by layer: by |delta| and by contribution, circuits of one size.

    delta[l, j]                               units of layer l's activations
    converted[l, j] = delta[l, j] (write . u) units of the residual stream along the answer's u
    contribution[l, j]                        the same units, see `contributions`

Only the units set the first two apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .. import _core
from ..base.errors import first_line
from ..base.html import frame_html, panel
from ..base.later import pd
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .form import Ids, two_sets
from .layer_table import late_shares, layers_sentence
from .provenance import with_prompt_provenance
from .selection import warn_of_rounding
from .size import circuit_size
from .universal import UniversalNeurons, universal_filter, universal_neurons


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

    def mapped(self, change: Callable[[_core.Circuit], _core.Circuit]) -> LayersByRanking:
        """With every circuit changed."""
        converted, contribution = self.by_converted, self.by_contribution
        return dataclasses.replace(
            self,
            by_delta=change(self.by_delta),
            by_converted=None if converted is None else change(converted),
            by_contribution=None if contribution is None else change(contribution),
        )

    @property
    def late(self) -> pd.DataFrame:
        """Shares of the last three layers and of the last quarter, see `late_shares`."""
        return late_shares(self.table)

    def __str__(self) -> str:
        sentence = layers_sentence(self.table)
        return f"{sentence} No contributions: {self.missing}" if self.missing else sentence

    def __repr__(self) -> str:
        return f"LayersByRanking({len(self.by_delta)} neurons of {len(self.delta_sum)} layers)"

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
    |delta| in the answer's units, "direction" along the answer. Both sets are recorded once.

    Args:
        fraction, k, universal, chat, penalty: as in `cna.discover`.
    Raises:
        ValueError: bad prompts, two sets that the model sees or answers alike, a size beyond the
            grid, or a negative penalty.
        RuntimeError: NaN or infinity in the activations. A model that does not know its weights is
            no error: its contributions are None.
    """
    function = "layers_by_ranking"
    circuit_size(model.n_neurons, fraction, k, function=function)
    sets = two_sets(model, positive, negative, chat, function)
    removed = universal_filter(
        universal,
        lambda: universal_neurons(model, chat=sets.chat, batch_size=batch_size, progress=progress),
        function,
    )
    intervention, _ = model._steering(1)
    run: dict[str, Any] = {
        "intervention": intervention,
        "batch_rows": batch_size,
        "share_prefix": share_prefix,
    }
    found = find_layers(
        model,
        sets.sides,
        list(removed.neurons) if removed else [],
        penalty=penalty,
        size={"fraction": fraction, "k": k},
        progress=progress,
        **run,
    )
    return found.mapped(
        lambda c: with_prompt_provenance(c, model, sets.sides, removed, sets.templated)
    )


def find_layers(
    model: Model,
    sides: tuple[Ids, Ids],
    left_out: list[tuple[int, int]],
    *,
    size: dict[str, Any],
    penalty: float = 0.1,
    progress: bool = True,
    **run: Any,
) -> LayersByRanking:
    """The circuits by each ranking, and the sums; provenance is that of the core alone.

    Args:
        sides: token ids of the positive and of the negative prompts.
        left_out: (layer, index) of neurons that no circuit may take.
        size: `fraction` and `k` of `Model.core.select`.
        run: for `Model.core.contribution_parts`.
    Raises:
        ValueError, RuntimeError: as `layers_by_ranking`.
    """
    parts, missing = None, ""
    with bar("layers by contribution", progress) as update:
        try:
            parts = model.core.contribution_parts(*sides, **run, progress=update)
        except _core.NonFiniteError:
            raise
        except RuntimeError as error:  # the model does not know its weights
            missing = first_line(error)
    if parts is None:
        with bar("layers by |delta|", progress) as update:
            moments = model.core.contrast(*sides, **run, progress=update)
    else:
        moments = parts.contrast
    chosen: dict[str, Any] = {"universal": left_out, **size}
    by_delta = model.core.select(*moments, ranking="mean_difference", **chosen)
    warn_of_rounding(model, moments, by_delta)
    delta_sum = _sums(moments[0]["mean"] - moments[1]["mean"])
    if parts is None:
        return LayersByRanking(by_delta, None, None, delta_sum, None, None, missing)
    along: dict[str, Any] = {
        "ranking": "direction",
        "direction": parts.direction,
        "direction_layer": model.n_layers - 1,
        "side": "both",
    }
    converted = parts.difference_along
    positive = parts.score(penalty).cpu().clamp(min=0)
    return LayersByRanking(
        by_delta,
        _largest(
            model,
            moments,
            positive,
            len(by_delta),
            left_out,
            ranking="contribution",
            penalty=penalty,
        ),
        _largest(model, moments, converted, len(by_delta), left_out, **along),
        delta_sum,
        _sums(converted),
        _sums(positive),
    )


def _sums(grid: Tensor) -> np.ndarray:
    """Of the magnitudes over each layer's neurons, [n_layers]."""
    return grid.abs().sum(1).cpu().numpy()


def _largest(
    model: Model,
    moments: tuple[dict[str, Any], dict[str, Any]],
    score: Tensor,
    k: int,
    left_out: list[tuple[int, int]],
    **how: Any,
) -> _core.Circuit:
    """The k neurons of the largest |scores|, fewer where fewer are not 0."""
    allowed = score.clone()
    for place in left_out:
        allowed[place] = 0.0
    k = min(k, int(allowed.count_nonzero()))
    if k == 0:
        return _core.Circuit(
            (model.n_layers, model.width), [], widths=model.widths, experts=model.experts
        )
    return model.core.select(*moments, score, k=k, universal=left_out, **how)
