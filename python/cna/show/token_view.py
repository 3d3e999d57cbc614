"""A view of a text: what the circuit contributes at each token, in all layers and in each.

    s(t) = sum over the circuit of delta_j a_j(t) / sum of delta_j^2

so 1 is the mean difference between positive and negative prompts: over the discovery prompts, the mean
of s at the last token of the positive ones is exactly 1 above that of the negative ones. Layers add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from .._core import Circuit
from ..base.files import write_whole
from ..base.html import lead, panel, render
from ..base.later import pd
from ..circuits.along import along
from ..circuits.recording import record_tokens
from ..hosts.model import Model

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenView:
    """What `circuit.view(model, text)` found.

    Attributes:
        tokens: text of each token of the prompt, then of the answer.
        layers: by layer of the circuit, its contribution at each token, [n_tokens]; they add up to
            `total`.
        n_prompt: how many of the tokens are the prompt's.
        n_neurons: of the circuit.
    """

    tokens: list[str]
    layers: dict[int, Floats]
    n_prompt: int
    n_neurons: int

    @property
    def total(self) -> Floats:
        """The circuit's contribution at each token, [n_tokens]; 1 is the mean difference of the sets."""
        return np.sum(list(self.layers.values()), axis=0)

    def to_frame(self) -> pd.DataFrame:
        """A row a token: token, part ("prompt" or "answer"), total, and a column for each layer."""
        n, all_ = self.n_prompt, len(self.tokens)
        columns: dict[str, Any] = {"token": self.tokens}
        columns["part"] = ["prompt"] * n + ["answer"] * (all_ - n)
        columns["total"] = self.total
        columns |= {f"layer_{layer}": values for layer, values in self.layers.items()}
        return pd.DataFrame(columns)

    def html(self) -> Markup:
        """A block for notebooks and pages: no scripts, light and dark, readable without colour."""
        total, parts = self.total, []
        scale = _scale(total)
        for name, start, end in (
            ("prompt", 0, self.n_prompt),
            ("answer", self.n_prompt, len(self.tokens)),
        ):
            cells = [_cell(self, i, total[i], scale) for i in range(start, end)]
            if cells:
                parts.append({"name": name, "cells": cells})
        rows = [_row("all", total)]
        rows += [_row(f"layer {layer}", values) for layer, values in self.layers.items()]
        text = (
            f"at {len(self.tokens)} tokens; 1 is the mean difference between the two sets of prompts. "
            f"The last prompt token predicts the answer's first."
        )
        body = render(
            "show/token_view",
            parts=parts,
            rows=rows,
            n=len(self.tokens),
            answer_from=self.n_prompt,
            step=_STEP,
        )
        return panel([lead(f"What {self.n_neurons} neurons contribute", text), body])

    def _repr_html_(self) -> str:
        return self.html()

    def figure(self) -> Any:
        """The view as a matplotlib Figure, for papers; `save` writes it as a file."""
        from .plots.tokens import token_figure

        return token_figure(self.tokens, self.total, self.layers, self.n_prompt)

    def save(self, path: str | Path) -> Path:
        """Writes a picture (.png, .pdf, .svg), or the block of HTML (.html).

        Raises:
            ValueError: another ending. RuntimeError: the file cannot be written.
        """
        from .plots import save

        path = Path(path)
        if path.suffix == ".html":
            page = render("base/block_page", body=self.html())
            write_whole(path, lambda p: p.write_text(page, encoding="utf-8"))
            return path
        if path.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(
                f"view.save: expected a file ending in .png, .pdf, .svg or .html, got '{path}'; choose "
                "one"
            )
        return save(self.figure(), path)

    def __repr__(self) -> str:
        strongest = int(np.abs(self.total).argmax())
        return (
            f"TokenView({len(self.tokens)} tokens, {self.n_neurons} neurons, strongest "
            f"{self.total[strongest]:+.2f} at {self.tokens[strongest]!r})"
        )


def view(
    circuit: Circuit,
    model: Model,
    prompt: str | Sequence[Mapping[str, Any]] | Sequence[int],
    *,
    max_new_tokens: int = 40,
    chat: bool | None = None,
) -> TokenView:
    """Each token of a prompt and of its answer by the circuit's contribution.

    Args:
        prompt: a text, a list of messages, or token ids; see `Model.tokenize`.
        max_new_tokens: of the greedy answer that is shown behind it, under the steering in force; 0:
            the prompt alone.
        chat: as in `Model.tokenize`.
    Raises:
        ValueError: an empty circuit, one whose deltas are all 0, one of another model; a bad prompt.
    """
    one: Any = [prompt]
    ids = model.tokenize(one, chat)[0]
    answer: list[int] = []
    if max_new_tokens:
        (answer,) = model.generate([ids], max_new_tokens, return_tokens=True, progress=False)
    (seen,) = record_tokens(model, [ids + answer], circuit, progress=False)
    shares = along(circuit, seen.double().numpy(), "view")
    layer_of = np.array([neuron.layer for neuron in circuit])
    layers = {int(n): shares[:, layer_of == n].sum(1) for n in np.unique(layer_of)}
    return TokenView(_texts(model, ids + answer), layers, len(ids), len(circuit))


def _texts(model: Model, ids: Sequence[int]) -> list[str]:
    if model.tokenizer is None:
        return [str(i) for i in ids]
    return [model.tokenizer.decode([i], skip_special_tokens=False) for i in ids]


# --- HTML -------------------------------------------------------------------------------------------

_STEP = 9.0  # px of a token in the lines of layers
_TALL = 11.0  # of the longest bar


def _scale(values: Floats) -> float:
    """The contribution that gets the full colour: 1, or more where tokens go beyond."""
    return max(1.0, float(np.quantile(np.abs(values), 0.98))) if len(values) else 1.0


def signed_text(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0"


def _cell(shown: TokenView, i: int, value: float, scale: float) -> dict[str, Any]:
    own = sorted(((v[i], layer) for layer, v in shown.layers.items()), key=lambda x: -abs(x[0]))
    by_layer = ", ".join(f"layer {layer} {value:+.2f}" for value, layer in own[:4])
    text = shown.tokens[i]
    return {
        "text": visible(text),
        "breaks": "\n" in text,
        "number": signed_text(value),
        "title": f"{value:+.2f}: {by_layer}",
        "colour": "217,95,2" if value > 0 else "31,143,180",
        "alpha": round(0.6 * min(1.0, abs(value) / scale), 3),
    }


def visible(text: str) -> str:
    """A token as it is shown: what would be invisible has a mark."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "\u00a0") or "∅"


def _row(name: str, values: Floats) -> dict[str, Any]:
    most = float(np.abs(values).max(initial=0.0)) or 1.0
    bars = []
    for i, value in enumerate(values):
        tall = _TALL * abs(float(value)) / most
        if tall >= 0.4:
            y = _TALL - tall if value > 0 else _TALL
            bars.append(
                {"x": i * _STEP, "y": round(y, 2), "height": round(tall, 2), "up": value > 0}
            )
    return {"name": name, "bars": bars, "most": f"±{most:.2g}"}
