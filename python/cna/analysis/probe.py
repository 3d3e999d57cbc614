"""A probe: a circuit as a detector, of prompts and of what is being written.

The score is that of a `cna.Gate`: how far the circuit's neurons stand from their mean over the discovery
prompts, in standard deviations, each with the sign of its delta. Scores, threshold and signs come from
discovery prompts; how well they tell evaluation prompts from benign ones is measured on these, beside
two controls: as many random neurons per layer, fitted alike, and the number of the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core
from ..base.html import frame_html, lead, panel
from ..base.later import pd
from ..circuits.gate import fit_gate
from ..circuits.random_control import random_like
from ..circuits.recording import record_tokens
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from ..prompts.tasks import Task
from .roc import Floats, Scores, auroc, auroc_interval, rate_at, roc

FALSE_POSITIVES = (0.01, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class Probe:
    """What `circuit.probe(model, task)` found.

    Attributes:
        gate: scores and threshold, fitted on the discovery prompts; `model.steer(..., gate=probe.gate)`.
        scores: a row a prompt: set ("evaluation" or "benign"), index, tokens, score, fires.
        table: a row a score: the circuit's, the median of the random draws, the prompt's length; auroc,
            auroc_low, auroc_high (over prompts; of the draws, over these), and the share of evaluation
            prompts found at fixed shares of benign ones, such as rate_at_0.05.
        random: AUROC of each draw of random neurons.
        watch: what `model.generate(..., watch=probe)` fills: `watch.scores`, one a token of each answer,
            and `watch.fired`.
    """

    gate: _core.Gate
    scores: pd.DataFrame
    table: pd.DataFrame
    random: list[float]
    watch: _core.Watch = field(repr=False)

    @property
    def auroc(self) -> float:
        """Of the circuit's score, evaluation against benign prompts."""
        return float(self.table["auroc"].iloc[0])

    @property
    def rates(self) -> dict[str, float]:
        """Share of each set that passes the threshold of the discovery prompts."""
        return {str(k): float(v) for k, v in self.scores.groupby("set")["fires"].mean().items()}

    @property
    def curve(self) -> pd.DataFrame:
        """The circuit's ROC on evaluation and benign prompts: threshold and both shares."""
        return roc(self._of("evaluation"), self._of("benign"))

    def _of(self, name: str) -> Floats:
        return self.scores.loc[self.scores["set"] == name, "score"].to_numpy(float)

    def token_scores(
        self, model: Model, prompts: Prompts, *, chat: bool | None = None
    ) -> list[list[float]]:
        """The score at every token of each prompt; the last one is what the gate goes by."""
        return self.gate.token_scores(model.core, model.tokenize(prompts, chat))

    def __repr__(self) -> str:
        low, high = self.table[["auroc_low", "auroc_high"]].iloc[0]
        return f"Probe({len(self.gate.circuit)} neurons, AUROC {self.auroc:.3f} [{low:.3f}, {high:.3f}])"

    def _repr_html_(self) -> str:
        rates = self.rates
        text = (
            f"passes the threshold on {rates['evaluation']:.0%} of the evaluation prompts and "
            f"{rates['benign']:.0%} of the benign ones (discovery: {self.gate.true_positives:.0%} and "
            f"{self.gate.false_positives:.0%})"
        )
        return panel([lead(repr(self), text), frame_html(self.table)])


def probe(
    circuit: _core.Circuit,
    model: Model,
    task: Task,
    *,
    false_positives: float = 0.05,
    draws: int = 20,
    batch_size: int = 64,
    progress: bool = True,
) -> Probe:
    """The circuit as a detector of the task's prompts.

    Args:
        task: its positive and negative prompts fit the score; its evaluation and benign ones measure it.
        false_positives: share of the negative prompts that may pass the threshold.
        draws: of random neurons, the control.
    Raises:
        ValueError: an empty circuit or one of another model, a task without benign prompts.
    """
    if not task.benign:
        raise ValueError(
            f"probe: expected benign prompts to tell apart from, got none in {task.name!r}; add some to "
            "the task"
        )
    gate = fit_gate(
        model,
        circuit,
        task.positive,
        task.negative,
        false_positives=false_positives,
        chat=task.chat,
        batch_size=batch_size,
        progress=progress,
    )
    sets = [
        model.tokenize(prompts, task.chat)
        for prompts in (task.evaluation, task.benign, task.positive, task.negative)
    ]
    controls = [random_like(circuit, seed) for seed in range(draws)]
    every = _union([circuit, *controls])
    ids = [tokens for prompts in sets for tokens in prompts]
    seen = np.zeros((len(ids), len(every)))

    def keep(prompt: int, activations: Any) -> None:
        seen[prompt] = activations[-1].double().numpy()

    record_tokens(model, ids, every, batch_size=batch_size, progress=progress, sink=keep)
    ends = np.cumsum([len(prompts) for prompts in sets])
    evaluation, benign, positive, negative = np.split(seen, ends[:-1])
    place = {(n.layer, n.index): i for i, n in enumerate(every)}

    def columns(of: _core.Circuit) -> list[int]:
        return [place[n.layer, n.index] for n in of]

    own = columns(circuit)
    scores = [gate.score_of(_tensor(x[:, own])).numpy() for x in (evaluation, benign)]
    random = []
    for control in controls:
        mine = columns(control)
        fitted = _gate_of(control, positive[:, mine], negative[:, mine])
        at = columns(fitted.circuit)
        told = [fitted.score_of(_tensor(x[:, at])).numpy() for x in (evaluation, benign)]
        random.append(auroc(told[0], told[1]))
    lengths = [[len(tokens) for tokens in prompts] for prompts in sets[:2]]
    rows = [_row("circuit", scores[0], scores[1]), _random_row(random)]
    rows.append(_row("tokens", lengths[0], lengths[1]))
    frame = pd.DataFrame(
        {
            "set": ["evaluation"] * len(scores[0]) + ["benign"] * len(scores[1]),
            "index": [*range(len(scores[0])), *range(len(scores[1]))],
            "tokens": [*lengths[0], *lengths[1]],
            "score": np.concatenate(scores),
        }
    )
    frame["fires"] = frame["score"] > gate.threshold
    table = pd.DataFrame([row for row in rows if row])
    return Probe(gate, frame, table, random, _core.Watch(gate))


def _tensor(x: Floats) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


def _union(circuits: Sequence[_core.Circuit]) -> _core.Circuit:
    first = circuits[0]
    neurons = {(n.layer, n.index): n for circuit in reversed(circuits) for n in circuit}
    return _core.Circuit(
        first.shape, list(neurons.values()), widths=first.widths, experts=first.experts
    )


def _gate_of(circuit: _core.Circuit, positive: Floats, negative: Floats) -> _core.Gate:
    """A gate of neurons whose deltas are those of these activations, [prompts, neurons] each."""
    together = np.concatenate([positive, negative])
    delta = positive.mean(0) - negative.mean(0)
    neurons = [
        _core.Neuron(n.layer, n.index, float(d)) for n, d in zip(circuit, delta, strict=True)
    ]
    signed = _core.Circuit(circuit.shape, neurons, widths=circuit.widths, experts=circuit.experts)
    before = {(n.layer, n.index): i for i, n in enumerate(circuit)}
    order = [before[n.layer, n.index] for n in signed]
    mean, sd = together.mean(0)[order], together.std(0)[order]
    return _core.Gate(signed, mean.tolist(), sd.tolist(), 0.0, 0.0, 0.0)


def _row(name: str, positive: Scores, negative: Scores) -> dict[str, Any]:
    low, high = auroc_interval(positive, negative)
    curve = roc(positive, negative)
    row: dict[str, Any] = {"score": name, "auroc": auroc(positive, negative)}
    row |= {"auroc_low": low, "auroc_high": high}
    return row | {f"rate_at_{share:g}": rate_at(curve, share) for share in FALSE_POSITIVES}


def _random_row(areas: Sequence[float]) -> dict[str, Any]:
    if not areas:
        return {}
    low, middle, high = np.quantile(areas, [0.025, 0.5, 0.975])
    return {"score": "random", "auroc": middle, "auroc_low": low, "auroc_high": high}
