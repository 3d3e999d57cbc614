"""The figures of a run, by name: those that its circuit and table have something to draw for."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from .._core import Circuit
from ..base.later import pd
from . import plots

CAPTIONS = {  # file stem -> caption; other images keep their names as captions
    "dose_response": "Behaviour rate against strength, with 95 % Wilson intervals. Dashed: the "
    "rate on benign prompts. Grey: the range of random draws.",
    "quality_against_effect": "Text quality against the effect. Upper right is better.",
    "matched_kl": "Effect against side effect: the distance to the unsteered model (KL) on benign "
    "prompts, to compare methods that disturb the model equally. Grey: random draws.",
    "layer_histogram": "Neurons of the circuit per layer.",
    "layers_by_ranking": "Above: neurons per layer of circuits of one size, by |delta| and by "
    "contribution. Below: the share of each sum over all neurons that a layer holds. |delta| is in the "
    "units of each layer's activations, the others in those of the answer.",
    "neuron_strip": "Each neuron of the circuit; colour is the sign of its contrast.",
    "overlap": "Overlap of two circuits by layer.",
    "stability": "How often resampled discovery prompts choose each neuron, and the overlap of "
    "random halves.",
}


def run_figures(
    circuit: Circuit | None, table: pd.DataFrame | None, layers: pd.DataFrame | None = None
) -> dict[str, Figure]:
    """{name: figure}; one that the table has no columns or rows for is left out."""
    wanted: dict[str, Callable[[], Figure]] = {}
    if table is not None:
        frame = table
        wanted["dose_response"] = lambda: plots.dose_response(frame)
        wanted["quality_against_effect"] = lambda: plots.quality_against_effect(frame)
        wanted["matched_kl"] = lambda: plots.matched_kl(frame)
    if circuit is not None:
        wanted["layer_histogram"] = lambda: plots.layer_histogram(circuit)
        wanted["neuron_strip"] = lambda: plots.neuron_strip(circuit)
    if layers is not None:
        by_layer = layers
        wanted["layers_by_ranking"] = lambda: plots.layers_by_ranking(by_layer)
    out = {}
    for name, draw in wanted.items():
        try:
            out[name] = draw()
        except ValueError:  # nothing to draw
            continue
    return out
