"""A circuit as a LoRA adapter: exact, small, and switched on per request.

    W + B A,   B = (m - 1) * W[:, S]  [hidden, r],   A = one-hot(S)  [r, width]

A picks the circuit's activations, B takes their share of the output away (m = 0), or adds to it.
All layers are padded with zeros to the rank of the busiest one, and lora_alpha = r, so the scaling
alpha / r is 1 in every engine. An adapter made at m = 0 and applied with scale s steers at 1 - s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import MARK, down_projections, output_folder
from .folded import checkpoint
from .module_names import module_names

RANK_LIMITS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for --max-lora-rank; its default is 16."""


def rank_note(rank: int) -> str:
    """What a server must be told to load an adapter of this rank."""
    limit = next((n for n in RANK_LIMITS if n >= rank), None)
    if limit is None:
        return (
            f"rank {rank} is above {RANK_LIMITS[-1]}, the most that vLLM takes; serve the folded "
            "checkpoint (format='hf') or a smaller circuit"
        )
    if limit <= 16:
        return f"rank {rank} fits the usual default limit of 16"
    above = f"rank {rank} is above the usual default limit of 16"
    return f"{above}; start vLLM with --max-lora-rank {limit}"


def factors(columns: Tensor, indices: list[int], width: int, multiplier: float, rank: int) -> Any:
    """A [rank, width] and B [hidden, rank], float32, from W[:, S] `columns` [hidden, len(S)]."""
    a = torch.zeros(rank, width)
    a[torch.arange(len(indices)), torch.tensor(indices)] = 1
    b = torch.zeros(columns.shape[0], rank)
    b[:, : len(indices)] = columns.float() * (multiplier - 1)
    return a, b


def hf_columns(
    neurons: dict[int, list[int]], widths: list[int], folder: Path, pattern: str = ""
) -> dict[int, tuple[str, bool, Tensor]]:
    """Module path, whether transposed, and W[:, S] [hidden, len(S)] of each layer with neurons."""
    out = {}
    for site in down_projections(folder, widths, pattern):
        if site.layer in neurons:
            weight = site.tensor.read()
            weight = weight.T if site.transposed else weight
            out[site.layer] = (site.module, site.transposed, weight[:, neurons[site.layer]].clone())
    return out


def write_peft(
    neurons: dict[int, list[int]],
    widths: list[int],
    source: Any,
    path: Path,
    multiplier: float,
    *,
    pattern: str = "",
    overwrite: bool = False,
    mark: str = "",
) -> int:
    """Writes a PEFT adapter folder; returns its rank. See `cna.convert`."""
    from safetensors.torch import save_file

    rank = max(len(s) for s in neurons.values())
    tensors: dict[str, Tensor] = {}
    modules = []
    with checkpoint(source, path) as (folder, name):
        transposed = False
        found = hf_columns(neurons, widths, folder, pattern)
        names = module_names([module for module, _, _ in found.values()], source, folder)
        for layer, (module, flipped, columns) in found.items():
            module = names[module]
            a, b = factors(columns, neurons[layer], widths[layer], multiplier, rank)
            tensors[f"base_model.model.{module}.lora_A.weight"] = a
            tensors[f"base_model.model.{module}.lora_B.weight"] = b
            modules.append(module)
            transposed = transposed or flipped
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
    with output_folder(path, overwrite) as target:
        save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config, indent=2) + "\n"
        (target / "adapter_config.json").write_text(text, encoding="utf-8")
        (target / MARK).write_text(mark, encoding="utf-8")
    return rank
