"""Discovery and sweeps over several processes: `torchrun --nproc-per-node N -m cna discover ...`.

Prompts are cut into chunks that do not depend on the number of processes; chunks are dealt round-robin,
and rank 0 merges their moments in the chunks' order. So 1, 2 and 4 processes give the same circuit.
With a `resume` folder that all processes share, every finished chunk is kept there, and a run that
was killed goes on from them, with as many processes as you like.

The variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) say who takes part; without
them everything runs in this process.
"""

from __future__ import annotations

from .discovery import discover_distributed, share_circuit
from .moments import contrast_distributed
from .sweep import sweep_distributed
from .universal import universal_neurons_distributed

__all__ = [
    "contrast_distributed",
    "discover_distributed",
    "share_circuit",
    "sweep_distributed",
    "universal_neurons_distributed",
]
