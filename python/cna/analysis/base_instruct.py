"""Circuits of a base model and of the instruct model tuned from it, by |delta| and by contribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core import Circuit
from ..base.html import frame_html, panel
from ..base.later import pd
from ..circuits.discovery import discover
from ..circuits.layers import LayersByRanking, layers_by_ranking
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from .localisation import CircuitComparison, Concentration, compare_circuits, concentration

_DEFAULT = "mean_difference"


@dataclass(frozen=True)
class BaseAgainstInstruct:
    """The circuits of a base model and of the instruct model tuned from it.

    Attributes:
        base, instruct: the circuits.
        base_concentration, instruct_concentration: how late they sit.
        overlap: left is base, right is instruct; `share_of_right` is the paper's overlap in per
            cent of the instruct circuit.
        base_layers, instruct_layers: the same circuits beside those of their size by contribution;
            None where another ranking was asked for.
    Source: arXiv 2605.12290, tables 7 and 8.
    """

    base: Circuit
    instruct: Circuit
    base_concentration: Concentration
    instruct_concentration: Concentration
    overlap: CircuitComparison
    base_layers: LayersByRanking | None = None
    instruct_layers: LayersByRanking | None = None

    @property
    def table(self) -> pd.DataFrame:
        """A row for each model and one for the neurons in both; then the same by contribution.

        The latter where both models know their weights.
        """
        ranking = str(self.instruct.provenance.get("ranking", _DEFAULT))
        rows = _rows(ranking, self.base, self.instruct)
        if self.base_layers and self.instruct_layers:
            base, instruct = self.base_layers.by_contribution, self.instruct_layers.by_contribution
            if base is not None and instruct is not None:
                rows += _rows("contribution", base, instruct)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        same, size = self.overlap.shared, len(self.instruct)
        return f"BaseAgainstInstruct({same} of {size} neurons in both)"

    def _repr_html_(self) -> str:
        caption = (
            f"Base against instruct: {self.overlap.shared:,} neurons in both, "
            f"{100 * self.overlap.share_of_right:.1f} % of the instruct circuit "
            f"({self.overlap.expected:.2g} expected by chance)"
        )
        return panel([frame_html(self.table, caption=caption)])


def _rows(ranking: str, base: Circuit, instruct: Circuit) -> list[dict[str, Any]]:
    """The rows of one ranking: base, instruct, both."""
    overlap = compare_circuits(base, instruct)
    nothing = {"share_of_instruct": np.nan, "jaccard": np.nan, "p_value": np.nan}
    shared = {
        "share_of_instruct": overlap.share_of_right,
        "jaccard": overlap.jaccard,
        "p_value": overlap.p_value,
    }
    rows = []
    for name, circuit, more in (
        ("base", base, nothing),
        ("instruct", instruct, nothing),
        ("both", instruct & base, shared),
    ):
        where = concentration(circuit)
        rows.append(
            {
                "ranking": ranking,
                "circuit": name,
                "neurons": where.n_neurons,
                "last_three": where.last_three,
                "last_quarter": where.last_quarter,
                **more,
            }
        )
    return rows


def base_against_instruct(
    base_model: Model,
    instruct_model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    chat: bool | None = None,
    base_chat: bool | None = False,
    **discover_options: Any,
) -> BaseAgainstInstruct:
    """Finds the circuit of one behaviour in a base model and in its instruct model.

    By |delta|, and beside it by contribution where the models know their weights.

    Args:
        chat: for the instruct model, as in `cna.discover`.
        base_chat: for the base model; raw text by default, even where its tokenizer carries a chat
            template, for the model was not trained on one.
        discover_options: for `cna.discover`, the same for both (fraction, k, universal, ...). The
            default universal neurons are counted on each model by itself. With a `ranking` of your
            own, the circuits are by that one alone.
    Raises:
        ValueError: models whose grids differ, or what `cna.discover` raises.
    """
    shapes = [(m.n_layers, m.width) for m in (base_model, instruct_model)]
    if base_model.widths != instruct_model.widths:
        raise ValueError(
            "base_against_instruct: expected two models of one architecture, got "
            f"{shapes[0][0]} x {shapes[0][1]} and {shapes[1][0]} x {shapes[1][1]} (layers x "
            "width); pass the base model that the instruct model was tuned from"
        )
    base, base_layers = _find(base_model, positive, negative, base_chat, discover_options)
    instruct, layers = _find(instruct_model, positive, negative, chat, discover_options)
    return BaseAgainstInstruct(
        base=base,
        instruct=instruct,
        base_concentration=concentration(base),
        instruct_concentration=concentration(instruct),
        overlap=compare_circuits(base, instruct),
        base_layers=base_layers,
        instruct_layers=layers,
    )


def _find(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    chat: bool | None,
    options: dict[str, Any],
) -> tuple[Circuit, LayersByRanking | None]:
    """The circuit by the ranking asked for; both by |delta| and by contribution by default."""
    if options.get("ranking", _DEFAULT) != _DEFAULT:
        return discover(model, positive, negative, chat=chat, **options), None
    rest = {name: value for name, value in options.items() if name != "ranking"}
    found = layers_by_ranking(model, positive, negative, chat=chat, **rest)
    return found.by_delta, found
