"""`cna demo`: the main job on the default model, from export to report."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..base.files import write_whole
from ..circuits.discovery import discover
from ..circuits.layer_table import layers_sentence
from ..circuits.universal import universal_neurons
from ..hosts.loading import load
from ..measure.sweep import sweep
from ..prompts import tasks
from .common import layer_lines
from .demo_table import markdown

TEXT = "The main job on the default model: find, prove, steer, report."
BASELINES = ("random-kl", "caa", "prompt", "logit-bias")
DRAWS, DRAW_PROMPTS = 20, 12  # of random neurons, and the prompts that each answers
SCORED = 24  # prompts whose answers' perplexity and relevance are measured


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
    print("3. Steer: the circuit at m = 1 (the model), 0 (ablated) and -1 (reversed), beside")
    print("   CAA, an instruction, a bias on the logits, and random neurons of equal KL")
    # The scratch file of finished answers lets a stopped demo go on.
    result = sweep(
        model,
        circuit,
        task,
        multipliers=[1.0, 0.0, -1.0],
        baselines=BASELINES,
        caa_layers=[2 * model.n_layers // 3],
        caa_coefficients=[-0.5],
        logit_biases=[-0.5],
        random_seeds=range(DRAWS),
        random_prompts=DRAW_PROMPTS,
        max_new_tokens=max_new_tokens,
        max_prompts=max_prompts,
        kl_prompts=4,
        relevance_prompts=SCORED,
        perplexity=False,
        quiz_questions=0,
        out=out,
    )
    text = markdown(result.table, result.answers, result.controls(), circuit)
    write_whole(out / "table.md", lambda p: p.write_text(text, encoding="utf-8"))
    print("\n".join(f"   {line}" for line in text.splitlines()))
    if result.layers is not None:
        print(f"   {layers_sentence(result.layers)}")
    print("4. Against the model, prompt by prompt (exact McNemar tests, Holm-corrected)")
    for row in result.compare().to_dict("records"):
        layer = "" if row["layer"] != row["layer"] else f" layer {row['layer']:.0f}"
        print(
            f"   {row['method'] + layer:<22}{row['strength']:>6g}: behaviour gained in "
            f"{row['gained']}, lost in {row['lost']} of {row['n']}, p = {row['p_holm']:.2g}"
        )
    print("5. What was measured against what the circuit should do")
    cna = result.table[result.table.method == "cna"].set_index("strength")
    base, ablated = cna.loc[1.0], cna.loc[0.0]
    checks = [
        (
            "at m = 0 it turns a tenth of the answers into other, unbroken ones",
            ablated.other - base.other >= 0.1,
            f"{base.other:.2f} -> {ablated.other:.2f}",
        ),
        (
            "at most a tenth of its answers are broken",
            ablated.broken <= 0.1,
            f"{ablated.broken:.2f}",
        ),
    ]
    for row in result.controls().to_dict("records"):
        name = "as many per layer" if row["control"] == "random" else "of equal KL"
        checks.append(
            (
                f"no more than one of {row['draws']} random draws {name} does as much",
                row["p_empirical"] <= 2 / (1 + row["draws"]),
                f"p = {row['p_empirical']:.2f}",
            )
        )
    for name, held, value in checks:
        print(f"   {'yes' if held else 'NO ':<4}{name}: {value}")
    print(
        f"6. Wrote {out}/ : circuit.json, table.csv, table.md, answers.csv, layers.csv, figures/, "
        "report.html"
    )
    print(f"   in {time.monotonic() - started:.0f} s")
    return 0
