"""Residual-stream steering (CAA), the method that neuron circuits are compared with.

    v = mean of x over positive prompts - mean over negative ones, at the last token
    x <- x + c * v while the model runs; a negative c removes the behaviour

`caa` is the canonical form: the residual stream behind one layer (Rimsky et al. 2024). `caa_mlp` is
the variant of the paper's authors: every layer's MLP output, all at once.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .. import _core
from ..base.progress import bar
from ..hosts.about import about_model
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .form import require_difference
from .provenance import prompt_hash


@dataclasses.dataclass(frozen=True)
class SteeringVector:
    """Directions added to activations: one layer's, or several layers' at once.

    Attributes:
        vectors: {layer: [hidden_size]}, float32.
        site: "residual" or "mlp_output".
        name: of the method, for tables.
        contrast: whether it is the difference of two sets' means, as of `caa`; its coefficient is
            then the paper's alpha.
        last_tokens: from how many tokens before the answer on it is added; None: from the first.
        provenance: what it was made with: model, prompts, steering that was active.
    """

    vectors: Mapping[int, Tensor]
    site: str = "residual"
    name: str = "caa"
    contrast: bool = False
    last_tokens: int | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        layers = ", ".join(map(str, sorted(self.vectors)))
        size = next(iter(self.vectors.values())).numel()
        return f"SteeringVector({self.name!r}, {self.site}, layers {layers}, {size} features)"

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ValueError(
                "SteeringVector: expected at least one layer, got none; pass {layer: vector}"
            )

    def intervention(self, coefficients: Sequence[float]) -> _core.Intervention:
        """x <- x + c * v at every layer of the vector, one arm per coefficient.

        Warns where vectors of several layers' residual streams are added at once: each was found
        with the others away, and sweeps measure one at a time.
        """
        if self.site == "residual" and len(self.vectors) > 1:
            warnings.warn(
                f"{self.name}: adds the vectors of {len(self.vectors)} layers at once, which is far "
                "more than one; steer with one: .at(layer)",
                stacklevel=2,
            )
        out = _core.Intervention(len(coefficients))
        for layer, vector in self.vectors.items():
            out = out.then(_core.Intervention.add(self.site, layer, vector, list(coefficients)))
        return out if self.last_tokens is None else out.from_last(self.last_tokens)

    def from_answer(self) -> SteeringVector:
        """The same from the end of the instruction on: its last token and all of the answer.

        This is where Rimsky et al. add the vector; its name gets "-answer" behind it.
        """
        return dataclasses.replace(self, name=f"{self.name}-answer", last_tokens=1)

    def at(self, layer: int) -> SteeringVector:
        """The same method at one layer only."""
        if layer not in self.vectors:
            raise IndexError(
                f"SteeringVector.at: expected one of layers {sorted(self.vectors)}, got {layer}; "
                "choose one of these"
            )
        return dataclasses.replace(self, vectors={layer: self.vectors[layer]})


def mean_difference(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    site: str = "residual",
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """Mean activation over positive minus over negative prompts, float64 [n_layers, features].

    Inside `with model.steer(...)` those of the steered model.
    """
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    require_difference(*sides, "caa")
    intervention, _ = model._steering(1)
    with bar("steering vectors", progress) as update:
        return model.core.steering_vectors(
            *sides, site, intervention=intervention, batch_rows=batch_size, progress=update
        )


def _provenance(
    model: Model, positive: Prompts, negative: Prompts, chat: bool | None
) -> dict[str, Any]:
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    return {**about_model(model), "prompt_hash": prompt_hash(*sides)}


def caa(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    layers: Sequence[int] | None = None,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> SteeringVector:
    """Canonical CAA vectors of the residual stream behind each layer.

    Args:
        layers: those to keep; all by default. Steer with one: `caa(...).at(20)`.
    Source: Rimsky et al. 2024, arXiv 2312.06681.
    """
    delta = mean_difference(
        model, positive, negative, chat=chat, batch_size=batch_size, progress=progress
    )
    wanted = range(model.n_layers) if layers is None else layers
    for layer in wanted:
        if not 0 <= layer < model.n_layers:
            raise IndexError(
                f"caa: expected layers below {model.n_layers}, got {layer}; count from 0"
            )
    return SteeringVector(
        {i: delta[i].float() for i in wanted},
        contrast=True,
        provenance=_provenance(model, positive, negative, chat),
    )


def caa_mlp(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> SteeringVector:
    """The authors' variant of CAA: the MLP outputs of all layers, steered together."""
    delta = mean_difference(
        model,
        positive,
        negative,
        site="mlp_output",
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    vectors = {i: delta[i].float() for i in range(model.n_layers)}
    return SteeringVector(
        vectors,
        "mlp_output",
        "caa-mlp",
        contrast=True,
        provenance=_provenance(model, positive, negative, chat),
    )
