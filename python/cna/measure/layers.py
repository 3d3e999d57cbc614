"""Where a task's behaviour lies by layer, as a run folder keeps it: by |delta| and by contribution."""

from __future__ import annotations

from .. import _core
from ..base.errors import first_line
from ..base.later import pd
from ..circuits.layers import layers_by_ranking
from ..hosts.model import Model
from ..prompts.tasks import Task
from .options import SweepOptions


def task_layers(
    model: Model, circuit: _core.Circuit, task: Task, options: SweepOptions, progress: bool
) -> tuple[pd.DataFrame | None, str]:
    """Neurons per layer of the task's circuits by each ranking, as many as the circuit has.

    Without universal neurons where the circuit was found without them. All are found on the
    task's discovery prompts, so the one by |delta| is another one than a circuit of other prompts.

    Returns:
        The table, see `cna.analysis.LayersByRanking`, and why it has no contributions ("" where it
        has). None for an empty circuit, or prompts that no circuit can be found on: a sweep goes on.
    """
    if not options.layers or not len(circuit):
        return None, ""
    try:
        found = layers_by_ranking(
            model,
            task.positive,
            task.negative,
            k=len(circuit),
            universal="default" if circuit.provenance.get("universal_filter") else None,
            chat=task.chat,
            batch_size=options.batch_size,
            progress=progress,
        )
    except ValueError as error:
        return None, first_line(error)
    return found.table, found.missing
