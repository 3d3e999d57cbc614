"""The study of docs/rankings.md: rankings, sizes, strengths and operations against their rivals.

    python benchmarks/rankings.py --docs docs/rankings.md

For each task and split, neurons come from one half of the discovery pairs and everything is measured on
the other: what is left of the behaviour, and the KL on prompts without it. Finished parts are kept in
--work and not run again. The yardstick was fixed before any number was seen: the area under the fall
against the KL up to 0.25, divided by 0.25, so that it is the mean fall over these bounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from pathlib import Path
from typing import Any

import cna
import numpy as np
import pandas as pd
from cna.base.files import write_whole
from cna.circuits.random_control import random_like
from cna.measure.baselines import logit_bias_arms
from cna.measure.random_draws import matched_multipliers
from cna.measure.tuning.candidate import Candidate
from cna.measure.tuning.choice import Choice
from cna.measure.tuning.fitted import Fitted
from cna.prompts.readers import universal_prompts
from pages import fill

MOST_KL = 0.25
SCALES = (0.5, 0.25, 0.0, -0.25, -0.5, -1.0)
SHIFTS, SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0), (0.25, 0.5, 0.75, 1.0)
COEFFICIENTS = BIASES = (-1.0, -0.5, -0.375, -0.25, -0.125, -0.0625)
LAYERS = 10  # of CAA, evenly spaced
BOUNDS = (0.01, 0.02, 0.04, 0.06, 0.1, 0.25)  # of the second table
RANKINGS = ("mean_difference", "effect_size", "contribution", "residual", "direction")
SIZES = (0.5, 1.0, 2.0)  # thousandths of all neurons
DRAWS = 5


def most_neurons(fitted: Fitted, candidate: Candidate) -> int:
    """How many neurons a ranking can give: those with a positive score that are not universal."""
    if candidate.ranking != "contribution":
        return candidate.k
    scores = fitted.contributions(candidate.penalty)
    for layer, index in fitted.universal.neurons:
        scores[layer, index] = 0
    return int((scores > 0).sum())


def settings(fitted: Fitted, neurons: int) -> list[tuple[str, str, Any]]:
    """(family, setting, intervention) of everything that is measured, the model itself first."""
    out: list[tuple[str, str, Any]] = [("model", "", cna.Intervention(1))]

    def add(family: str, candidate: Candidate, strengths: tuple[float, ...]) -> None:
        candidate = dataclasses.replace(
            candidate, k=min(candidate.k, most_neurons(fitted, candidate))
        )
        operation = fitted.operation(candidate)
        for strength in strengths:
            name = f"k {candidate.k}, {candidate.operation} {strength:g}"
            out.append((family, name, operation.intervention([strength])))

    def candidate(ranking: str, size: float, operation: str = "scale") -> Candidate:
        k = max(1, round(size * neurons / 1000))
        return Candidate(ranking, k, 0, operation, 0.0, 0.1 if ranking == "contribution" else 0.0)

    for ranking in RANKINGS:
        add(ranking, candidate(ranking, 1.0), SCALES)
    add(
        "contribution, λ 0.2",
        dataclasses.replace(candidate("contribution", 1.0), penalty=0.2),
        SCALES,
    )
    for size in SIZES:
        if size != 1.0:
            for ranking in ("mean_difference", "contribution"):
                add(f"{ranking}, {size:g} ‰", candidate(ranking, size), SCALES)
    for ranking in ("mean_difference", "contribution"):
        add(f"{ranking}, shift", candidate(ranking, 1.0, "shift"), SHIFTS)
        add(f"{ranking}, towards", candidate(ranking, 1.0, "towards"), SHARES)
    for layer, vector in fitted.caa.vectors.items():
        at = dataclasses.replace(fitted.caa, vectors={layer: vector})
        out += [(f"CAA, layer {layer}", f"c {c:g}", at.intervention([c])) for c in COEFFICIENTS]
    return out


def random_settings(
    fitted: Fitted, choice: Choice, neurons: int, seed: int
) -> list[tuple[str, str, Any]]:
    """Draws as large as the contribution circuit, as disturbing as it is at m = 0 and at -0.5."""
    k = max(1, round(neurons / 1000))
    circuit = fitted.circuit(Candidate("contribution", k, 0, "scale", 0.0, 0.1))
    draws = [random_like(circuit, seed * DRAWS + i) for i in range(DRAWS)]

    def kl_of(multipliers: Any) -> list[float]:
        steered = [cna.Intervention.scale(d, [m]) for d, m in zip(draws, multipliers, strict=True)]
        return [m.kl for m in choice.measure(steered, False)]

    out = []
    for m in (0.0, -0.5):
        target = choice.measure([cna.Intervention.scale(circuit, [m])], False)[0].kl
        found = matched_multipliers(kl_of, DRAWS, target, 1.0 - m)
        out += [
            (f"random {i}", f"as much as m {m:g}", cna.Intervention.scale(d, [x]))
            for i, (d, x) in enumerate(zip(draws, found, strict=True))
        ]
    return out


def vectors(model: cna.Model, sides: Any, chat: bool | None) -> Any:
    """CAA's vectors behind LAYERS layers, from the third to the last."""
    last = model.n_layers - 1
    layers = sorted({round(2 + i * (last - 2) / (LAYERS - 1)) for i in range(LAYERS)})
    return cna.caa(model, *sides, layers=layers, chat=chat, progress=False)


def measure(
    model: cna.Model, task: Any, seed: int, prompts: int, tokens: int, rows: int
) -> pd.DataFrame:
    """One row a setting on the choice half of a split."""
    order = list(range(min(len(task.positive), len(task.negative))))
    random.Random(1000 + seed).shuffle(order)
    held, kept = sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])
    fit = [task.positive[i] for i in kept], [task.negative[i] for i in kept]
    fitted = Fitted(model, task, *fit, rows, False)
    fitted.caa = vectors(model, fit, task.chat)
    asked = [task.positive[i] for i in held][:prompts]
    matched = [task.negative[i] for i in held][:16]
    harmless = random.Random(seed).sample(universal_prompts(), 8)
    choice = Choice(
        model,
        task.judge,
        asked,
        matched,
        harmless,
        chat=task.chat,
        max_new_tokens=tokens,
        batch_size=rows,
        progress=False,
    )
    neurons = model.n_layers * model.width
    todo = settings(fitted, neurons)
    sides = cna.tasks.Task(task.name, "", *fit, asked, judge=task.judge, chat=task.chat)
    for arm in logit_bias_arms(model, sides, BIASES, progress=False):
        todo.append(("logit bias", f"b {arm.strength:g}", arm.intervention))
    todo += random_settings(fitted, choice, neurons, seed)
    out, at_once = [], max(1, 3 * rows // len(asked))
    for at in range(0, len(todo), at_once):
        part = todo[at : at + at_once]
        found = choice.measure([intervention for *_, intervention in part], False)
        out += [
            {"family": family, "setting": name, **dataclasses.asdict(m)}
            for (family, name, _), m in zip(part, found, strict=True)
        ]
    told = choice.measure_instruction(task.prompt_baseline)
    out.append({"family": "instruction", "setting": "", **dataclasses.asdict(told)})
    return pd.DataFrame(out).assign(task=task.name, split=seed)


def mean_fall(rows: pd.DataFrame, before: float, column: str) -> float:
    """The mean over bounds from 0 to MOST_KL of the largest fall among settings within the bound."""
    steps = [(0.0, 0.0)]
    for kl, left in sorted(zip(rows["kl"], rows[column], strict=True)):
        if kl <= MOST_KL and before - left > steps[-1][1]:
            steps.append((kl, before - left))
    ends = [kl for kl, _ in steps[1:]] + [MOST_KL]
    return sum((end - kl) * fall for (kl, fall), end in zip(steps, ends, strict=True)) / MOST_KL


def scores(rows: pd.DataFrame) -> pd.DataFrame:
    """The yardstick of every family, by task and split."""
    out = []
    for (task, split), part in rows.groupby(["task", "split"]):
        base = part[part["family"] == "model"].iloc[0]
        for family, mine in part[part["family"] != "model"].groupby("family", sort=False):
            out.append(
                {
                    "task": task,
                    "split": split,
                    "family": family,
                    "left": mean_fall(mine, base["left"], "left"),
                    "rate": mean_fall(mine, base["rate"], "rate"),
                    "settings": len(mine),
                }
            )
    return pd.DataFrame(out)


def falls(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The largest fall of `left` or `rate` within each of BOUNDS, by family, task and split."""
    out = []
    for (task, split), part in rows.groupby(["task", "split"]):
        base = part[part["family"] == "model"].iloc[0][column]
        for family, mine in part[part["family"] != "model"].groupby("family", sort=False):
            values = {
                bound: max([0.0, *(base - mine[column][mine["kl"] <= bound])]) for bound in BOUNDS
            }
            out.append({"task": task, "split": split, "family": family, **values})
    return pd.DataFrame(out)


def bounds_table(found: pd.DataFrame, families: list[str]) -> list[str]:
    """Markdown: the mean over tasks and splits of the fall within each bound."""
    mean = found.groupby("family")[list(BOUNDS)].mean()
    lines = ["| | " + " | ".join(f"KL ≤ {b:g}" for b in BOUNDS) + " |"]
    lines.append("| --- |" + " ---: |" * len(BOUNDS))
    for family in families:
        values = " | ".join(f"{mean.loc[family, b]:.2f}" for b in BOUNDS)
        lines.append(f"| {family} | {values} |")
    return lines


def table(found: pd.DataFrame) -> list[str]:
    """Markdown: one row a family, the draws of random neurons as one, the best first."""
    found = found.assign(
        family=found["family"].str.replace(r"^random \d+$", "random neurons", regex=True)
    )
    tasks = list(dict.fromkeys(found["task"]))
    mean = found.groupby(["family", "task"])["left"].agg(["mean", "min", "max"])
    order = found.groupby("family")["left"].mean().sort_values(ascending=False).index
    lines = ["| | " + " | ".join(tasks) + " | mean | of the rate alone | settings |"]
    lines.append("| --- |" + " ---: |" * (len(tasks) + 3))
    for family in order:
        cells = []
        for task in tasks:
            x = mean.loc[(family, task)]
            cells.append(f"{x['mean']:.2f} [{x['min']:.2f}, {x['max']:.2f}]")
        mine = found[found["family"] == family]
        end = f"{mine['left'].mean():.2f} | {mine['rate'].mean():.2f} | {mine['settings'].iloc[0]}"
        lines.append(f"| {family} | {' | '.join(cells)} | {end} |")
    return lines


def figure(rows: pd.DataFrame, task: str, path: Path) -> None:
    """What is left against the KL, every setting, the splits together."""
    from cna.show.plots import save
    from cna.show.plots.style import COLOURS, dress, legend, one_axes

    families = {
        "mean_difference": ("by delta", COLOURS["cna"], "o"),
        "contribution": ("by contribution", COLOURS["no-filter"], "h"),
        "residual": ("by residual share", "#E69F00", "v"),
        "direction": ("by direction", "#8B1A4A", "^"),
        "logit bias": ("logit bias", COLOURS["logit-bias"], "P"),
    }
    mine = rows[rows["task"] == task]
    fig, ax = one_axes(7.2, 4.6)
    ax.axvspan(MOST_KL, 10, color="#EEEEEE", linewidth=0)
    noise = mine[mine["family"].str.startswith("random")]
    ax.plot(noise["kl"], 100 * noise["left"], "x", color=COLOURS["random"], label="random neurons")
    vectors = mine[mine["family"].str.startswith("CAA")]
    vectors = vectors.groupby(["family", "setting"])[["kl", "left"]].mean()
    ax.plot(
        vectors["kl"], 100 * vectors["left"], "s", color=COLOURS["caa"], label="CAA, ten layers"
    )
    for family, (label, colour, marker) in families.items():
        part = mine[mine["family"] == family].groupby("setting", sort=False)[["kl", "left"]].mean()
        part = part.sort_values("kl")
        ax.plot(part["kl"], 100 * part["left"], marker + "-", color=colour, label=label)
    base = mine[mine["family"] == "model"]["left"].mean()
    ax.axhline(100 * base, color="#6B6B6B", linestyle=":", linewidth=1, label="the model")
    ax.set_xlim(-0.01, 2 * MOST_KL)
    ax.set_ylim(-3, 103)
    ax.set_xlabel("KL on prompts without the behaviour [nats per token]")
    ax.set_ylabel("behaviour, broken or astray [%]")
    dress(ax, task, grid="both")
    legend(ax, below=True)
    save(fig, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", default="capability-refusal,answer-language,answer-list")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=24, help="with the behaviour, of each split")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=64, help="of a batch")
    parser.add_argument("--work", default="runs/rankings", help="finished parts are kept there")
    parser.add_argument("--docs", help="page whose block between markers is written, with figures")
    args = parser.parse_args()
    work = Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    model = None
    parts = []
    for split in range(args.splits):
        for name in args.tasks.split(","):
            path = work / f"{name}-{split}-{args.prompts}-{args.tokens}.csv"
            if not path.exists():
                model = model or cna.load(args.model, device=args.device)
                started, task = time.monotonic(), cna.tasks.load(name)
                rows = measure(model, task, split, args.prompts, args.tokens, args.rows)
                write_whole(path, lambda p, rows=rows: rows.to_csv(p, index=False))
                print(f"{name}, split {split}: {time.monotonic() - started:.0f} s", flush=True)
            parts.append(pd.read_csv(path, keep_default_na=False))
    rows = pd.concat(parts, ignore_index=True)
    found = scores(rows)
    lines = table(found)
    few = ["contribution", "contribution, λ 0.2", "direction", "mean_difference", "logit bias"]
    few += [f for f in dict.fromkeys(rows["family"]) if f.startswith("CAA")]  # none chosen
    for column, said in {"left": "*left*", "rate": "the behaviour's rate alone"}.items():
        lines += [
            "",
            f"Largest fall of {said} within a bound on the KL, mean over tasks and splits:",
        ]
        lines += ["", *bounds_table(falls(rows, column), few)]
    print("\n".join(lines))
    (work / "scores.json").write_text(json.dumps(found.to_dict("records"), default=float, indent=1))
    if args.docs:
        page = Path(args.docs)
        (page.parent / "figures").mkdir(exist_ok=True)
        for name in args.tasks.split(","):
            figure(rows, name, page.parent / "figures" / f"rankings-{name}.png")
        base = rows[rows["family"] == "model"].groupby("task")["left"].mean()
        said = ", ".join(f"{task} {value:.2f}" for task, value in base.items())
        fill(page, {"rankings": "\n".join([f"Left of the model itself: {said}.", "", *lines])})


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
