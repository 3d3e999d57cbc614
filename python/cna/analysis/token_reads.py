"""Tokens that a neuron's gate and up rows read: their products with the embeddings, in early layers."""

from __future__ import annotations

import json

from torch import Tensor

from .. import _core
from ..hosts.model import Model

# Families whose MLP reads the stream through one RMS norm with a plain gain.
NORM = "post_attention_layernorm"
FAMILIES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
_SHARE = 8  # the first eighth of the layers: there the stream is still close to the embeddings


def early_layers(model: Model) -> int:
    """How many layers from the first have a reading of their inputs."""
    return max(1, model.n_layers // _SHARE)


def _architecture(model: Model) -> str:
    """The class of an exported model, as its manifest has it; "" for another host."""
    manifest = None if model.path is None else model.path / "manifest.json"
    if manifest is None or not manifest.is_file():
        return ""
    return str(json.loads(manifest.read_text(encoding="utf-8")).get("architecture", ""))


def rows_read(model: Model, circuit: _core.Circuit) -> dict[int, tuple[Tensor, Tensor]]:
    """(gate, up) of each early neuron, by its rank: float32 [vocab] each, for every token alone.

    What the row gives where the residual stream is a token's embedding: row . (gain * e / rms(e)).
    Empty for a host that does not know its weights, and for families not named here.
    """
    if _architecture(model) not in FAMILIES:
        return {}
    out: dict[int, tuple[Tensor, Tensor]] = {}
    directions: dict[int, Tensor] = {}
    for rank, neuron in enumerate(circuit):
        if neuron.layer >= early_layers(model):
            continue
        mlp = model.core.neuron_sites[neuron.layer].rpartition(".")[0]
        layer = mlp.rpartition(".")[0]
        rows = [model.core.weight(f"{mlp}.{name}_proj") for name in ("gate", "up")]
        if any(row is None for row in rows):
            return {}
        if neuron.layer not in directions:
            gain = model.core.weight(f"{layer}.{NORM}")
            embed = model.core.weight(f"{layer.rpartition('.layers.')[0]}.embed_tokens")
            if gain is None or embed is None:
                return {}
            e = embed.float().cpu()
            rms = e.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
            directions[neuron.layer] = gain.float().cpu() * e / rms
        gate, up = (
            directions[neuron.layer] @ row[neuron.index].float().cpu()
            for row in rows
            if row is not None
        )
        out[rank] = (gate, up)
    return out
