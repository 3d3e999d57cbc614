"""The sweep: all strengths x prompts x methods in batched runs with one strength per row.

    arms (method, layer, strength) x prompts (evaluation, benign) -> answers -> judge -> table

Answers are appended to a file as they are finished; a run that was killed goes on from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import _core
from .metrics import fixed_text, quiz_accuracy, summarise
from .model import Model
from .progress import bar
from .prompts import Question
from .steering import SteeringVector, caa, caa_mlp, random_like
from .tasks import Task

BASELINES = ("random", "caa", "caa-mlp", "no-filter")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to steer: a method, its layer where it has one, and a strength.

    strength is the multiplier m for neuron methods and the coefficient for steering vectors.
    """

    method: str
    layer: int | None
    strength: float
    intervention: _core.Intervention = dataclasses.field(repr=False, compare=False)

    @property
    def key(self) -> str:
        return f"{self.method}|{'' if self.layer is None else self.layer}|{self.strength:g}"

    @property
    def alpha(self) -> float:
        """The paper's axis: 1 - m for neurons, the coefficient for vectors."""
        return self.strength if self.method.startswith("caa") else 1.0 - self.strength


def neuron_arms(method: str, circuit: _core.Circuit, multipliers: Iterable[float]) -> list[Arm]:
    """One arm per multiplier for a set of neurons."""
    return [Arm(method, None, m, _core.Intervention.scale(circuit, [m])) for m in multipliers]


def vector_arms(
    vector: SteeringVector, coefficients: Iterable[float], per_layer: bool = True
) -> list[Arm]:
    """Layer x coefficient arms, or one arm per coefficient with all layers steered together."""
    if not per_layer:
        return [Arm(vector.name, None, c, vector.intervention([c])) for c in coefficients]
    return [
        Arm(vector.name, layer, c, vector.at(layer).intervention([c]))
        for layer in vector.vectors
        for c in coefficients
    ]


@dataclasses.dataclass
class SweepResult:
    """What a sweep measured.

    Attributes:
        table: one row per arm; columns as in docs/evaluation.md.
        answers: one row per arm and prompt.
        settings: what it was run with.
    """

    table: pd.DataFrame
    answers: pd.DataFrame
    settings: dict[str, Any]
    circuit: _core.Circuit

    def plot(self) -> Any:
        """Behaviour rate against strength with intervals: a matplotlib Figure."""
        from . import plots

        return plots.dose_response(self.table)

    def save(self, folder: str | os.PathLike[str], report: bool = True) -> Path:
        """Writes circuit.json, table.csv, answers.csv, run.json, figures and report.html."""
        from .runs import save_run

        return save_run(self, Path(folder), report=report)

    def _repr_html_(self) -> str:
        shown = [
            c for c in ("method", "layer", "strength", "rate", "quality", "kl") if c in self.table
        ]
        return self.table[shown].to_html(index=False, float_format="%.3f", na_rep="")


class AnswerLog:
    """Finished answers in a JSON-lines file; a line cut short by a kill is dropped on reading."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.done: dict[tuple[str, str, int], list[int]] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read(path, fingerprint)
        else:
            self._append([json.dumps({"fingerprint": fingerprint})])

    def _read(self, path: Path, fingerprint: str) -> None:
        raw = path.read_bytes()
        whole, _, rest = raw.rpartition(b"\n")
        if rest:  # cut off in the middle of a line: keep what is whole
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        lines = whole.decode("utf-8").splitlines() if whole else []
        if not lines:
            self._append([json.dumps({"fingerprint": fingerprint})])
            return
        if json.loads(lines[0]).get("fingerprint") != fingerprint:
            raise ValueError(
                f"sweep: expected '{path}' to belong to this run, got answers of another model, "
                "circuit, task or setting; choose another folder"
            )
        for line in lines[1:]:
            row = json.loads(line)
            self.done[row["arm"], row["set"], row["index"]] = row["tokens"]

    def _append(self, lines: list[str]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(("\n".join(lines) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RuntimeError(
                f"sweep: expected to write '{self.path}', got {error.strerror}; free some space and "
                "start again, finished answers are kept"
            ) from None

    def add(self, rows: Sequence[tuple[tuple[str, str, int], list[int]]]) -> None:
        """Appends finished rows in one write."""
        self._append(
            [json.dumps({"arm": a, "set": s, "index": i, "tokens": t}) for (a, s, i), t in rows]
        )
        self.done.update(rows)


def generate_answers(
    model: Model,
    arms: Sequence[Arm],
    prompts: dict[str, list[str]],
    *,
    chat: bool | None,
    max_new_tokens: int,
    batch_size: int,
    log: AnswerLog,
    progress: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Greedy answers of every arm to every prompt, batched over both; finished ones are reused."""
    ids = {name: model.tokenize(texts, chat) for name, texts in prompts.items() if texts}
    jobs = [
        (arm, name, i)
        for arm in arms
        for name in ids
        for i in range(len(ids[name]))
        if (arm.key, name, i) not in log.done
    ]
    with bar("sweep", progress, "answer") as update:
        for start in range(0, len(jobs), batch_size):
            chunk = jobs[start : start + batch_size]
            chosen = list(dict.fromkeys(arm.key for arm, _, _ in chunk))
            by_key = {arm.key: arm.intervention for arm, _, _ in chunk}
            answers = model.core.generate(
                [ids[name][i] for _, name, i in chunk],
                max_new_tokens=max_new_tokens,
                intervention=_core.Intervention.concat([by_key[k] for k in chosen]),
                arms=[chosen.index(arm.key) for arm, _, _ in chunk],
                batch_rows=batch_size,
            )
            log.add(
                [((arm.key, name, i), a) for (arm, name, i), a in zip(chunk, answers, strict=True)]
            )
            if update:
                update(start + len(chunk), len(jobs))
    rows = []
    for arm in arms:
        for name in ids:
            for i, prompt in enumerate(prompts[name]):
                tokens = log.done[arm.key, name, i]
                rows.append(
                    {
                        "method": arm.method,
                        "layer": arm.layer,
                        "strength": arm.strength,
                        "arm": arm.key,
                        "set": name,
                        "index": i,
                        "prompt": prompt,
                        "answer": model.decode(tokens),
                        "tokens": tokens,
                    }
                )
    frame = pd.DataFrame(rows)
    frame["layer"] = frame["layer"].astype("Int64")
    return frame


def _fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def build_arms(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    multipliers: Sequence[float],
    baselines: Sequence[str],
    *,
    caa_layers: Sequence[int] | None = None,
    caa_coefficients: Sequence[float] = (-1.0, -0.5, -0.25),
    random_seeds: Sequence[int] = (0,),
    chat: bool | None = None,
    progress: bool = True,
) -> list[Arm]:
    """The arms of a sweep; the first one is the model itself."""
    for name in baselines:
        if name not in BASELINES:
            raise ValueError(
                f"sweep: expected baselines among {list(BASELINES)}, got '{name}'; choose these"
            )
    for m in multipliers:
        if not math.isfinite(m):
            raise ValueError(f"sweep: expected finite multipliers, got {m}; pass numbers")
    strengths = sorted({1.0, *map(float, multipliers)})
    arms = [Arm("cna", None, 1.0, _core.Intervention(1))]
    arms += [a for a in neuron_arms("cna", circuit, strengths) if a.strength != 1.0]
    steered = [m for m in strengths if m != 1.0]
    if "random" in baselines:
        for seed in random_seeds:
            name = "random" if len(random_seeds) == 1 else f"random-{seed}"
            arms += neuron_arms(name, random_like(circuit, seed), steered)
    if "no-filter" in baselines:
        from .discovery import discover

        plain = discover(
            model,
            task.positive,
            task.negative,
            k=len(circuit),
            universal=None,
            chat=chat,
            progress=progress,
        )
        arms += neuron_arms("no-filter", plain, steered)
    if "caa" in baselines:
        layers = caa_layers
        if layers is None:
            layers = sorted({model.n_layers * part // 6 for part in (2, 3, 4, 5)})
        vector = caa(
            model, task.positive, task.negative, layers=layers, chat=chat, progress=progress
        )
        arms += vector_arms(vector, caa_coefficients)
    if "caa-mlp" in baselines:
        vector = caa_mlp(model, task.positive, task.negative, chat=chat, progress=progress)
        arms += vector_arms(vector, caa_coefficients, per_layer=False)
    return arms


def sweep(
    model: Model,
    circuit: _core.Circuit,
    task: Task,
    multipliers: Sequence[float] = (-1.0, 0.0, 0.5, 1.0, 2.0),
    baselines: Sequence[str] = ("random", "caa"),
    *,
    caa_layers: Sequence[int] | None = None,
    caa_coefficients: Sequence[float] = (-1.0, -0.5, -0.25),
    random_seeds: Sequence[int] = (0,),
    max_new_tokens: int = 40,
    batch_size: int = 64,
    kl_prompts: int = 16,
    perplexity: bool = True,
    quiz: Sequence[Question] | None = None,
    quiz_questions: int = 60,
    max_prompts: int | None = None,
    arms: Sequence[Arm] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> SweepResult:
    """Measures a circuit at several strengths beside controls and baselines.

    Args:
        task: from `cna.tasks.load`; its judge decides what counts as the behaviour.
        multipliers: strengths m of the circuit; 1, the model itself, is always among them.
        baselines: "random" (as many neurons per layer), "caa" (residual stream, layer x
            coefficient), "caa-mlp" (the authors' variant) and "no-filter" (top neurons with the
            universal ones left in).
        kl_prompts: prompts for KL(unsteered || steered) along unsteered answers; 0 leaves it out.
        quiz: multiple-choice questions; the built-in set by default, `quiz_questions` of them; 0
            leaves accuracy out.
        max_prompts: evaluation and benign prompts to use, each; all by default.
        arms: extra arms, for methods of your own.
        out: a run folder; finished answers are kept there, and a killed run goes on from them.
    Returns:
        SweepResult; `.table` has one row per arm, `.plot()` draws it, `.save(folder)` keeps it.
    Raises:
        ValueError: unknown baseline, strengths that are not finite, or a folder of another run.
    """
    cut = slice(None) if max_prompts is None else slice(0, max_prompts)
    prompts = {"evaluation": task.evaluation[cut], "benign": task.benign[cut]}
    chosen = build_arms(
        model,
        circuit,
        task,
        multipliers,
        baselines,
        caa_layers=caa_layers,
        caa_coefficients=caa_coefficients,
        random_seeds=random_seeds,
        chat=task.chat,
        progress=progress,
    )
    chosen += list(arms or [])
    if repeated := [a.key for i, a in enumerate(chosen) if a in chosen[:i]]:
        raise ValueError(f"sweep: expected each arm once, got {repeated[0]} twice; drop one")
    settings = {
        "task": task.name,
        "judge": task.judge.name,
        "model_id": model.model_id,
        "weights_hash": model.core.weights_hash,
        "dtype": str(model.dtype)[6:],
        "multipliers": sorted({1.0, *map(float, multipliers)}),
        "baselines": list(baselines),
        "caa_coefficients": list(caa_coefficients),
        "max_new_tokens": max_new_tokens,
        "n_evaluation": len(prompts["evaluation"]),
        "n_benign": len(prompts["benign"]),
        "versions": {"cna": _core.version, "torch": torch.__version__},
    }
    # What the answers depend on; arms may be added to a run, so they are not part of it.
    fingerprint = _fingerprint(
        model.core.weights_hash,
        model.model_id,
        settings["dtype"],
        circuit.to_json(),
        prompts,
        task.chat,
        max_new_tokens,
    )
    log = AnswerLog(Path(out) / "answers.jsonl" if out is not None else None, fingerprint)
    answers = generate_answers(
        model,
        chosen,
        prompts,
        chat=task.chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        log=log,
        progress=progress,
    )
    extra: dict[str, pd.Series] = {}
    everything = _core.Intervention.concat([arm.intervention for arm in chosen])
    keys = [arm.key for arm in chosen]
    if kl_prompts > 0:
        extra["kl"] = pd.Series(
            _kl(model, chosen, everything, answers, task.chat, kl_prompts, batch_size, progress),
            index=keys,
        )
    if perplexity:
        with bar("perplexity", progress) as update:
            extra["perplexity"] = pd.Series(
                fixed_text(model, everything, batch_size, update), index=keys
            )
    correct = None
    if quiz_questions > 0:
        with bar("quiz", progress) as update:
            correct = quiz_accuracy(
                model, everything, quiz, quiz_questions, batch_size=batch_size, progress=update
            )
    table, answers = summarise(chosen, answers, task, extra, correct)
    result = SweepResult(table, answers.drop(columns=["tokens", "arm"]), settings, circuit)
    if out is not None:
        result.save(out)
    return result


def _kl(
    model: Model,
    arms: Sequence[Arm],
    everything: _core.Intervention,
    answers: pd.DataFrame,
    chat: bool | None,
    n: int,
    batch_size: int,
    progress: bool,
) -> list[float]:
    base = answers[(answers.arm == arms[0].key) & (answers.set == "evaluation")]
    base = base[base.tokens.map(len) > 0].head(n)
    if base.empty:
        return [math.nan] * len(arms)
    ids = model.tokenize(list(base.prompt), chat)
    with bar("KL", progress, "row") as update:
        kl, _ = model.core.divergence(
            ids, list(base.tokens), intervention=everything, batch_rows=batch_size, progress=update
        )
    return kl.mean(1).tolist()
