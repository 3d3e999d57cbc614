"""The paper's experiments on a model of yours.

result = cna.reproduce("meta-llama/Llama-3.2-1B-Instruct", base="meta-llama/Llama-3.2-1B")
"""

from __future__ import annotations

from .behaviour import ALPHAS
from .experiments import PARTS, main_reproduce, reproduce
from .layers import LAYER_TASKS, authors_circuit, authors_layers, layer_distance
from .own_prompts import jailbreak_task
from .printed import paper, paper_entry
from .result import Reproduction
from .tables import controls_table, quality_table, refusal_table

__all__ = [
    "ALPHAS",
    "LAYER_TASKS",
    "PARTS",
    "Reproduction",
    "authors_circuit",
    "authors_layers",
    "controls_table",
    "jailbreak_task",
    "layer_distance",
    "main_reproduce",
    "paper",
    "paper_entry",
    "quality_table",
    "refusal_table",
    "reproduce",
]
