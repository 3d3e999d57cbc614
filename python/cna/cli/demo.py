"""`cna demo`: the main job on the default model, from export to report, for two behaviours."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from ..base.files import write_whole
from ..circuits.discovery import discover
from ..circuits.layer_table import layers_sentence
from ..circuits.universal import UniversalNeurons, universal_neurons
from ..hosts.loading import load
from ..hosts.model import Model
from ..measure.result import SweepResult
from ..measure.sweep import sweep
from ..prompts import tasks
from .common import layer_lines, opening, opening_options
from .demo_table import markdown

TEXT = "The main job on the default model: find, prove, steer, report."
BASELINES = ("random-kl", "caa", "contribution", "prompt", "logit-bias")
DRAWS, DRAW_PROMPTS = 20, 8  # of random neurons, and the prompts that each answers
SCORED = 16  # prompts whose answers' perplexity and relevance are measured


@dataclasses.dataclass(frozen=True)
class Part:
    """A behaviour of the demo, and the strengths it is shown at.

    They come from runs on other prompts than those that the demo answers.

    Attributes:
        folder: below the demo's own; "" for that itself.
        multiplier: m of both circuits; caa: depth of the layer and coefficient; bias: of the logits.
        prompts: evaluation prompts; all by default.
    """

    task: str
    folder: str
    multiplier: float
    caa: tuple[float, float]
    bias: float
    prompts: int | None = None


PARTS = (
    Part("capability-refusal", "", 0.0, (2 / 3, -0.5), -0.5),
    Part("answer-language", "answer-language", 0.5, (1 / 2, -1.0), -1.0, 32),
)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="demo-out", help="folder to write both behaviours' runs to"
    )
    parser.add_argument(
        "--model", default="smollm2", help="smollm2, a Hugging Face id or folder, or an export"
    )
    parser.add_argument(
        "--prompts", type=int, default=None, help="evaluation prompts (default: 64 and 32)"
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=40, help="tokens that an answer may have at most"
    )
    opening_options(parser)


def run(args: argparse.Namespace) -> int:
    how = opening(args)
    return run_demo(Path(args.out), args.model, args.prompts, args.max_new_tokens, **how)


def run_demo(
    out: Path,
    model_name: str = "smollm2",
    max_prompts: int | None = None,
    max_new_tokens: int = 40,
    **how: Any,
) -> int:
    """Runs the main job, prints each step and writes the run folders. Returns an exit code.

    how: further arguments of `cna.load`.
    """
    started = time.monotonic()
    print(f"Load {model_name} (exported to TorchScript once)")
    model = load(model_name, **how)
    print(f"   {model}")
    universal = universal_neurons(model)
    for part in PARTS:
        limit = part.prompts if max_prompts is None else max_prompts
        run_part(out / part.folder, model, universal, part, limit, max_new_tokens)
    names = ", ".join(str(out / part.folder) for part in PARTS)
    print(f"Wrote {names} : circuit.json, table.csv, table.md, answers.csv, figures/, report.html")
    print(f"   in {time.monotonic() - started:.0f} s")
    return 0


def run_part(
    out: Path,
    model: Model,
    universal: UniversalNeurons,
    part: Part,
    max_prompts: int | None,
    max_new_tokens: int,
) -> None:
    """Finds, steers and measures one behaviour."""
    task = tasks.load(part.task)
    print(f"\n1. Discover the circuit of '{task.name}' from {len(task.positive)} prompt pairs")
    circuit = discover(model, task.positive, task.negative, universal=universal)
    print(
        f"   {len(circuit)} of {model.n_neurons} neurons; "
        f"{len(circuit.universal_removed)} universal ones kept out"
    )
    print("\n".join(layer_lines(circuit)))
    print(
        f"2. Steer: the circuit at m = {part.multiplier:g}, beside as many neurons by contribution,"
    )
    print("   CAA, an instruction, a bias on the logits, and random neurons of equal KL")
    depth, coefficient = part.caa
    # The scratch file of finished answers lets a stopped demo go on.
    result = sweep(
        model,
        circuit,
        task,
        multipliers=[1.0, part.multiplier],
        baselines=BASELINES,
        caa_layers=[int(depth * model.n_layers)],
        caa_coefficients=[coefficient],
        logit_biases=[part.bias],
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
    print("3. Against the model, prompt by prompt (exact McNemar tests, Holm-corrected)")
    for row in result.compare().to_dict("records"):
        layer = "" if row["layer"] != row["layer"] else f" layer {row['layer']:.0f}"
        print(
            f"   {row['method'] + layer:<22}{row['strength']:>6g}: behaviour gained in "
            f"{row['gained']}, lost in {row['lost']} of {row['n']}, p = {row['p_holm']:.2g}"
        )
    print("4. What was measured against what the circuits should do")
    for name, held, value in _checks(result, part.multiplier):
        print(f"   {'yes' if held else 'NO ':<4}{name}: {value}")


def _checks(result: SweepResult, m: float) -> list[tuple[str, bool, str]]:
    """(what should be, whether it is, what was measured), for both rankings."""
    rows = result.table.set_index(["method", "strength"])
    base = rows.loc[("cna", 1.0)]
    out = []
    for method, name in (("cna", "by delta"), ("contribution", "by contribution")):
        if (method, m) not in rows.index:
            continue
        row = rows.loc[(method, m)]
        out += [
            (
                f"{name}, at m = {m:g} a tenth of the answers become other, unbroken ones",
                row.other - base.other >= 0.1,
                f"{base.other:.2f} -> {row.other:.2f}",
            ),
            (
                f"{name}, at most a tenth of the answers are broken",
                row.broken <= 0.1,
                f"{base.broken:.2f} -> {row.broken:.2f}",
            ),
        ]
    for row in result.controls().to_dict("records"):
        name = "as many per layer" if row["control"] == "random" else "of equal KL"
        out.append(
            (
                f"by delta, no more than one of {row['draws']} random draws {name} does as much",
                row["p_empirical"] <= 2 / (1 + row["draws"]),
                f"p = {row['p_empirical']:.2f}",
            )
        )
    return out
