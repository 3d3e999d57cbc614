"""A fingerprint: what a circuit does on ten fixed prompts, by which a model is known again.

    s = sum over the circuit of delta_j a_j / sum of delta_j^2      at the last token of each text

Ten numbers in the circuit's provenance. Another machine or dtype changes their last digits, other
weights, another template or other tokens change all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core
from ..hosts.model import Model
from .along import along
from .recording import record

TEXTS = (
    "The bakery on the corner opens at six.",
    "How many sides does a hexagon have?",
    "Please find the invoice for March attached.",
    "def area(width, height): return width * height",
    "La bibliothèque ferme à vingt heures.",
    "Water boils at a lower temperature on a mountain.",
    "Who left the garden gate open again?",
    "My grandmother's blue teapot survived four moves.",
    "Turn left at the church and cross the bridge.",
    "In 1969 two people walked on the Moon.",
)
_NEAR = {"float32": 1e-3, "float64": 1e-3}  # of the largest; other dtypes are coarser


@dataclass(frozen=True)
class Verdict:
    """What `verify` found of one thing: `ok` is None where the circuit does not say."""

    name: str
    ok: bool | None
    text: str


def numbers(circuit: _core.Circuit, model: Model) -> list[float]:
    """The circuit's ten numbers on a model."""
    seen = record(model, list(TEXTS), neurons=circuit, progress=False).double().numpy()
    return [float(x) for x in along(circuit, seen, "fingerprint").sum(-1)]


def with_fingerprint(circuit: _core.Circuit, model: Model) -> _core.Circuit:
    """The circuit with its fingerprint on this model in its provenance, for `verify`.

    Raises:
        ValueError: an empty circuit, or one of another model.
    """
    return circuit.with_provenance(fingerprint=numbers(circuit, model))


def verify(circuit: _core.Circuit, model: Model) -> list[Verdict]:
    """Whether a circuit is one of this model: its shape, weights, chat template and fingerprint."""
    said: dict[str, Any] = circuit.provenance
    fits = circuit.widths == model.widths
    layers = f"{len(model.widths)} layers of {model.n_neurons} neurons"
    out = [Verdict("shape", fits, layers if fits else f"{layers}, the circuit says otherwise")]
    own = {
        "weights": ("weights_hash", model.core.weights_hash),
        "template": ("chat_template_sha256", model.chat_template_sha256()),
    }
    for name, (key, here) in own.items():
        there = said.get(key)
        if not there or not here:
            out.append(Verdict(name, None, "not known"))
        else:
            same = there == here
            out.append(Verdict(name, same, "as found" if same else f"found on {there}, got {here}"))
    wanted = said.get("fingerprint")
    if not fits or not wanted:
        text = "none in the circuit: `cna verify --write` adds it" if fits else "not run"
        return [*out, Verdict("fingerprint", None, text)]
    got, expected = np.array(numbers(circuit, model)), np.array(wanted, float)
    off = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))
    near = _NEAR.get(str(model.dtype).removeprefix("torch."), 0.05)
    text = f"ten prompts, largest relative difference {off:.2g} (up to {near:g})"
    return [*out, Verdict("fingerprint", off <= near, text)]
