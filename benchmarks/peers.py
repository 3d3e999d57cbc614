"""Other libraries, each twice: as its documentation shows, and tuned as far as it allows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from contenders import HuggingFace, Ids, pad_left


class NNsight(HuggingFace):
    """nnsight: one trace a batch that saves the last token of every down projection's input."""

    by_length = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import nnsight

        self.wrapped, self.save = nnsight.NNsight(self.hf), nnsight.save

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        with self.wrapped.trace(input_ids=tokens, attention_mask=mask, position_ids=positions):
            found = self.save([])
            for layer in self.wrapped.model.layers:
                found.append(layer.mlp.down_proj.input[:, -1].clone())
        return torch.stack(found, 1)


class NNsightTuned(NNsight):
    """nnsight with batches of like lengths, stopped behind the last layer's neurons."""

    by_length = True

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        with self.wrapped.trace(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ) as tracer:
            found = self.save([])
            for layer in self.wrapped.model.layers:
                found.append(layer.mlp.down_proj.input[:, -1].clone())
            tracer.stop()
        return torch.stack(found, 1)


class Pyvene(HuggingFace):
    """pyvene: a CollectIntervention at the last position of every down projection's input."""

    by_length = False
    extra: dict[str, Any] = {}  # noqa: RUF012
    use_cache: bool | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import pyvene

        places = [
            {
                "layer": number,
                "component": f"model.layers[{number}].mlp.down_proj.input",
                "unit": "pos",
                "max_number_of_units": 1,
                "intervention_type": pyvene.CollectIntervention,
            }
            for number in range(len(self.layers))
        ]
        config = pyvene.IntervenableConfig(places)
        self.wrapped = pyvene.IntervenableModel(config, model=self.hf)
        numbers = [
            int(re.search(r"layers\[(\d+)\]", key)[1])  # type: ignore[index]
            for key in self.wrapped.sorted_keys
        ]
        self.order = [numbers.index(n) for n in range(len(self.layers))]

    def collect(self, ids: Ids) -> torch.Tensor:
        tokens, mask, positions = pad_left(ids, self.pad)
        base = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        (_, found), _ = self.wrapped(
            {**base, **self.extra},
            unit_locations={"base": tokens.shape[1] - 1},
            use_cache=self.use_cache,
        )
        rows = torch.stack(list(found), 1).reshape(len(ids), len(self.layers), -1)
        return rows[:, self.order]


class PyveneTuned(Pyvene):
    """pyvene with batches of like lengths, logits of the last token only."""

    by_length = True
    extra = {"logits_to_keep": 1}  # noqa: RUF012
    use_cache = False


class SteeringVectors(HuggingFace):
    """steering-vectors: its record_activations, which reads outputs of modules.

    A neuron is act(gate) * up, an output of no module: two recorders read both factors.
    """

    by_length = False
    clone = True
    extra: dict[str, Any] = {}  # noqa: RUF012

    def collect(self, ids: Ids) -> torch.Tensor:
        from steering_vectors import record_activations

        tokens, mask, positions = pad_left(ids, self.pad)
        gates: Any = {"mlp": "model.layers.{num}.mlp.act_fn"}
        ups: Any = {"mlp": "model.layers.{num}.mlp.up_proj"}
        with (
            record_activations(self.hf, "mlp", gates, clone_activations=self.clone) as gate,
            record_activations(self.hf, "mlp", ups, clone_activations=self.clone) as up,
        ):
            self.hf(tokens, attention_mask=mask, position_ids=positions, **self.extra)
        return torch.stack(
            [gate[n][0][:, -1] * up[n][0][:, -1] for n in range(len(self.layers))], 1
        )


class SteeringVectorsTuned(SteeringVectors):
    """steering-vectors with batches of like lengths, no copies, logits of the last token only."""

    by_length = True
    clone = False
    extra = {"logits_to_keep": 1, "use_cache": False}  # noqa: RUF012
