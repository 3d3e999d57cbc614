"""Everything that candidates are built from, recorded once on the fit half of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import _core
from ...base.progress import bar
from ...circuits.operation import Operation
from ...circuits.provenance import with_prompt_provenance
from ...circuits.universal import universal_neurons
from ...circuits.vectors import SteeringVector, caa
from ...hosts.model import Model
from ...prompts.tasks import Task
from .candidate import Candidate

NEEDS_WEIGHTS = ("contribution", "residual", "direction")


class Fitted:
    """Moments and scores of the fit half; `operation(candidate)` costs no forward pass."""

    def __init__(
        self,
        model: Model,
        task: Task,
        positive: Sequence[Any],
        negative: Sequence[Any],
        batch_size: int,
        progress: bool,
    ) -> None:
        self.model = model
        self.sides = model.tokenize(positive, task.chat), model.tokenize(negative, task.chat)
        self.templated = model.uses_chat(task.chat)
        self.universal = universal_neurons(
            model, chat=task.chat, batch_size=batch_size, progress=progress
        )
        intervention, _ = model._steering(1)
        run: dict[str, Any] = {"intervention": intervention, "batch_rows": batch_size}
        self._scores: dict[str, Tensor | None] = {}
        self._parts: _core.ContributionParts | None = None
        with bar("fit", progress) as update:
            self.moments = model.core.contrast(*self.sides, **run, progress=update)
        with bar("fit, with weights", progress) as update:
            try:
                self._parts = model.core.contribution_parts(*self.sides, **run, progress=update)
            except RuntimeError as error:  # a host that does not know its weights
                self.without_weights = str(error)
            else:
                self.without_weights = ""
                for ranking in ("residual", "direction"):
                    self._scores[ranking] = model.core.scores(*self.sides, ranking=ranking, **run)[
                        1
                    ]
        layers = sorted({model.n_layers * part // 6 for part in (2, 3, 4, 5)})
        self.caa: SteeringVector = caa(
            model, positive, negative, layers=layers, chat=task.chat, progress=False
        )

    @property
    def rankings(self) -> tuple[str, ...]:
        """Those that this model's host can give."""
        known = ("mean_difference", "effect_size")
        return known if self._parts is None else (*known, *NEEDS_WEIGHTS)

    def contributions(self, penalty: float) -> Tensor:
        """Every neuron's contribution, float64 [n_layers, width]; ValueError without weights."""
        if self._parts is None:
            raise ValueError(
                "contributions: expected a host that knows its weights, got one without; "
                f"{self.without_weights}"
            )
        return self._parts.score(penalty)

    def _score(self, candidate: Candidate) -> Tensor | None:
        if candidate.ranking == "contribution":
            return self.contributions(candidate.penalty)
        return self._scores.get(candidate.ranking)

    def circuit(self, candidate: Candidate) -> _core.Circuit:
        """Raises ValueError where fewer than k neurons may be chosen."""
        circuit = self.model.core.select(
            *self.moments,
            self._score(candidate),
            k=candidate.k,
            universal=list(self.universal.neurons),
            ranking=candidate.ranking,
            penalty=candidate.penalty,
            layers=(candidate.first_layer, self.model.n_layers - 1),
        )
        return with_prompt_provenance(
            circuit, self.model, self.sides, self.universal, self.templated
        )

    def operation(self, candidate: Candidate) -> Operation:
        """The candidate's neurons and what is done to them; errors as `circuit`."""
        circuit = self.circuit(candidate)
        if candidate.operation == "towards":
            return Operation.towards(circuit, self.moments[1]["mean"].to(torch.float64))
        return Operation(circuit, candidate.operation)
