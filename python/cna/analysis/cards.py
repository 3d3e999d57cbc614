"""Neuron cards: what each neuron of a circuit does, from forward passes only.

Where it is strong and weak in texts, what it writes to the logits (a linear reading), how it stands on
the two sets of prompts, what its ablation alone changes, and how often other prompts would find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from .. import _core
from ..base.files import write_whole
from ..base.html import lead, number, panel, render
from ..base.later import pd
from ..hosts.model import Model
from ..prompts.tasks import Task
from . import card_numbers
from .contexts import Context, contexts, default_texts

Floats = NDArray[np.float64]
BINS = 16  # of a histogram


@dataclass(frozen=True, eq=False)
class Card:
    """One neuron.

    Attributes:
        rank, layer, index: rank 0 is the strongest; expert: in a mixture (None: every token sees it).
        numbers: delta; and where the two sets were given mean_positive, mean_negative, effect_size
            (Cohen's d), contribution (None where the host does not know its weights), ablation_kl (nats
            a token, the neuron at 0 on answers to positive prompts), stability (share of bootstrap
            circuits with it; NaN: not among those of the ranking by mean difference).
        strongest, weakest: tokens in the texts, with the largest and the smallest activations.
        raises, lowers: (token, logits for one unit of activation): a linear reading through the final
            norm's gain and the unembedding; empty where the host does not know its weights.
        gate_reads, up_reads: in the first eighth of the layers, (token, product) for the tokens whose
            embeddings the neuron's gate row (largest) and up row (largest by magnitude) answer to;
            empty in later layers, and where the host does not know its weights.
        positive, negative: activations at the last token of each prompt of either set, or empty.
    """

    rank: int
    layer: int
    index: int
    expert: int | None
    numbers: dict[str, float | None]
    strongest: list[Context]
    weakest: list[Context]
    raises: list[tuple[str, float]]
    lowers: list[tuple[str, float]]
    gate_reads: list[tuple[str, float]]
    up_reads: list[tuple[str, float]]
    positive: Floats
    negative: Floats

    @property
    def name(self) -> str:
        place = str(self.index) if self.expert is None else f"expert {self.expert}, {self.index}"
        return f"layer {self.layer}, neuron {place}"

    def histogram(self) -> pd.DataFrame:
        """Columns low, high, positive, negative: prompts of either set with activations in that bin."""
        both = np.concatenate([self.positive, self.negative])
        if not len(both):
            return pd.DataFrame(columns=["low", "high", "positive", "negative"])
        edges = np.histogram_bin_edges(both, BINS)
        counts = {
            name: np.histogram(values, edges)[0]
            for name, values in (("positive", self.positive), ("negative", self.negative))
        }
        return pd.DataFrame({"low": edges[:-1], "high": edges[1:], **counts})

    def html(self) -> Markup:
        """The card as a block for notebooks and pages."""
        return render(
            "analysis/card",
            card=self,
            numbers=[(k.replace("_", " "), number(v)) for k, v in self.numbers.items()],
            bars=_bars(self.histogram()),
            most=max((c.activation for c in self.strongest), default=1.0) or 1.0,
        )

    def _repr_html_(self) -> str:
        return panel([self.html()])


class Cards:
    """The cards of a circuit, strongest neuron first: a sequence of `Card`.

    Attributes:
        circuit, texts: what they are about; n_texts is how many texts were read.
    """

    def __init__(self, circuit: _core.Circuit, cards: list[Card], n_texts: int) -> None:
        self.circuit, self._cards, self.n_texts = circuit, cards, n_texts

    def __len__(self) -> int:
        return len(self._cards)

    def __getitem__(self, rank: int) -> Card:
        return self._cards[rank]

    def __iter__(self) -> Iterator[Card]:
        return iter(self._cards)

    def to_frame(self) -> pd.DataFrame:
        """A row a neuron: rank, layer, index, the numbers, and the lists of tokens as text."""
        rows = []
        for card in self:
            row: dict[str, Any] = {"rank": card.rank, "layer": card.layer, "index": card.index}
            row |= {"expert": card.expert} if self.circuit.experts else {}
            row |= card.numbers
            row["strongest"] = " | ".join(str(c) for c in card.strongest)
            row["weakest"] = " | ".join(str(c) for c in card.weakest)
            row["raises"] = " ".join(token for token, _ in card.raises)
            row["lowers"] = " ".join(token for token, _ in card.lowers)
            row["gate_reads"] = " ".join(token for token, _ in card.gate_reads)
            row["up_reads"] = " ".join(token for token, _ in card.up_reads)
            rows.append(row)
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Cards({len(self)} neurons, {self.n_texts} texts)"

    def html(self, most: int | None = None) -> Markup:
        """All cards, or the first `most`, one below the other."""
        shown = self._cards[:most]
        text = f"over {self.n_texts} texts, strongest |delta| first"
        head = lead(f"{len(self)} neurons", text)
        return panel([head, *(card.html() for card in shown)])

    def _repr_html_(self) -> str:
        return self.html(10)

    def save(self, folder: str | Path) -> Path:
        """Writes neurons.html, a page of its own, and neurons.csv. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        page = render("base/block_page", body=self.html())
        write_whole(folder / "neurons.html", lambda p: p.write_text(page, encoding="utf-8"))
        write_whole(folder / "neurons.csv", lambda p: self.to_frame().to_csv(p, index=False))
        return folder


def _bars(histogram: pd.DataFrame) -> list[dict[str, Any]]:
    if not len(histogram):
        return []
    most = max(1, int(histogram[["positive", "negative"]].to_numpy().max()))
    return [
        {
            "x": 8 * i,
            "up": 20.0 * row.positive / most,
            "down": 20.0 * row.negative / most,
            "title": f"{row.low:.3g} to {row.high:.3g}: {row.positive} and {row.negative}",
        }
        for i, row in enumerate(histogram.itertuples())
    ]


def cards(
    circuit: _core.Circuit,
    model: Model,
    texts: Sequence[str] | None = None,
    *,
    task: Task | None = None,
    n: int = 5,
    ablation: bool = True,
    n_bootstrap: int = 200,
    batch_size: int = 64,
    progress: bool = True,
) -> Cards:
    """Cards of a circuit's neurons.

    Args:
        texts: where strong and weak tokens are looked for, raw; the bundled ones by default.
        task: whose positive and negative prompts the neurons stand on: histogram, effect size,
            contribution, ablation and stability need it.
        n: tokens of each list.
        ablation: what each neuron's ablation alone changes; one pass a neuron over a few prompts.
        n_bootstrap: draws of the stability; 0 leaves it out.
    Raises:
        ValueError: an empty circuit or one of another model, no texts.
    """
    texts = default_texts() if texts is None else list(texts)
    if not texts:
        raise ValueError(
            "cards: expected texts to read, got none; leave texts out for the bundled ones"
        )
    found = contexts(model, circuit, texts, n, batch_size=batch_size, progress=progress)
    written = card_numbers.written(model, circuit, n)
    reads = card_numbers.read(model, circuit, n)
    sides = card_numbers.sides(model, circuit, task, batch_size, progress)
    numbers = card_numbers.numbers(
        model, circuit, task, sides, ablation, n_bootstrap, batch_size, progress
    )
    out = []
    for rank, neuron in enumerate(circuit):
        expert, _ = circuit.expert_of(neuron.layer, neuron.index)
        out.append(
            Card(
                rank,
                neuron.layer,
                neuron.index,
                expert if circuit.experts else None,
                {name: values[rank] for name, values in numbers.items()},
                *found[rank],
                *written[rank],
                *reads[rank],
                *(side[:, rank] for side in sides),
            )
        )
    return Cards(circuit, out, len(texts))
