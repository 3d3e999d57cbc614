"""`cna demo`: the main job on the default model, from export to report."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..circuits.discovery import discover
from ..circuits.random_control import random_like
from ..circuits.universal import universal_neurons
from ..hosts.loading import load
from ..measure.arms import neuron_arms
from ..measure.sweep import sweep
from ..prompts import tasks
from .common import layer_lines

TEXT = "The main job on the default model: find, prove, steer, report."
RANDOM_DRAWS = (0, 1, 2)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo-out", help="folder of the results")
    parser.add_argument(
        "--model", default="smollm2", help="smollm2, a Hugging Face id or folder, or an export"
    )
    parser.add_argument(
        "--prompts", type=int, default=None, help="evaluation prompts (default: all)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=40, help="of each answer")


def run(args: argparse.Namespace) -> int:
    return run_demo(Path(args.out), args.model, args.prompts, args.max_new_tokens)


def run_demo(
    out: Path,
    model_name: str = "smollm2",
    max_prompts: int | None = None,
    max_new_tokens: int = 40,
) -> int:
    """Runs the main job, prints each step and writes the run folder. Returns an exit code."""
    started = time.monotonic()
    print(f"1. Load {model_name} (exported to TorchScript once)")
    model = load(model_name)
    print(f"   {model}")
    task = tasks.load("capability-refusal")
    print(f"2. Discover the circuit of '{task.name}' from {len(task.positive)} prompt pairs")
    universal = universal_neurons(model)
    circuit = discover(model, task.positive, task.negative, universal=universal)
    print(
        f"   {len(circuit)} of {model.n_layers * model.width} neurons; "
        f"{len(circuit.universal_removed)} universal ones kept out"
    )
    print("\n".join(layer_lines(circuit)))
    print("3. Steer: the rate at m = 1 (the model), 0 (ablated), -1 (reversed), and random neurons")
    # The scratch file of finished answers lets a stopped demo go on.
    controls = [
        arm
        for seed in RANDOM_DRAWS
        for arm in neuron_arms(f"random-{seed}", random_like(circuit, seed), [0.0])
    ]
    controls += neuron_arms("random-0", random_like(circuit, 0), [-1.0])
    result = sweep(
        model,
        circuit,
        task,
        multipliers=[1.0, 0.0, -1.0],
        baselines=[],
        arms=controls,
        max_new_tokens=max_new_tokens,
        max_prompts=max_prompts,
        quiz_questions=0,
        out=out,
    )
    table = result.table.set_index(["method", "strength"])
    print(f"   {'neurons':<12}{'m':>5}{'rate':>7}   95 % interval {'quality':>9}{'KL':>7}")
    for (method, strength), row in table.iterrows():
        interval = f"[{row.rate_low:.2f}, {row.rate_high:.2f}]"
        print(
            f"   {method:<12}{strength:>5g}{row.rate:>7.2f}   {interval:<14}{row.quality:>9.3f}"
            f"{row.kl:>7.2f}"
        )
    print("4. Answers before and after")
    answers = result.answers[result.answers.set == "evaluation"]
    before = answers[(answers.method == "cna") & (answers.strength == 1)].set_index("index")
    after = answers[(answers.method == "cna") & (answers.strength == 0)].set_index("index")
    changed = [i for i in before.index if before.hit[i] and not after.hit[i]]
    for i in changed[:3]:
        print(f"   {before.prompt[i]}")
        print(f"     m = 1: {' '.join(before.answer[i].split())[:110]}")
        print(f"     m = 0: {' '.join(after.answer[i].split())[:110]}")
    base, ablated = table.loc[("cna", 1.0)], table.loc[("cna", 0.0)]
    control = [table.loc[(f"random-{s}", 0.0)].rate for s in RANDOM_DRAWS]
    mean = sum(control) / len(control)
    print("5. What was measured against what the circuit should do")
    checks = [
        (
            "the circuit lowers the rate by at least a third",
            ablated.rate <= base.rate * 2 / 3,
            f"{base.rate:.2f} -> {ablated.rate:.2f}",
        ),
        (
            f"random neurons change it by at most 0.1 (mean of {len(control)} draws)",
            abs(mean - base.rate) <= 0.1,
            f"{base.rate:.2f} -> {mean:.2f} ({', '.join(f'{r:.2f}' for r in control)})",
        ),
        ("quality stays at 0.9 or more", ablated.quality >= 0.9, f"{ablated.quality:.3f}"),
    ]
    for name, held, value in checks:
        print(f"   {'yes' if held else 'NO ':<4}{name}: {value}")
    print(f"6. Wrote {out}/ : circuit.json, table.csv, answers.csv, figures/, report.html")
    print(f"   in {time.monotonic() - started:.0f} s")
    return 0
