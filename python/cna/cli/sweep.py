"""`cna sweep`: measures strengths, controls and baselines on a task."""

from __future__ import annotations

import argparse

from .common import load_model, model_options, numbers, table_text, task_option, together

TEXT = "Measure strengths, controls and baselines on a task."


def options(parser: argparse.ArgumentParser) -> None:
    model_options(parser)
    task_option(parser, default="capability-refusal")
    parser.add_argument(
        "--circuit", "-c", help="circuit.json, or the run folder of a tune (default: discover it)"
    )
    parser.add_argument(
        "--multipliers",
        type=numbers,
        default=[-1.0, 0.0, 0.5, 1.0, 2.0],
        help="of the circuit: 0 ablates, 1 is the model",
    )
    parser.add_argument(
        "--baselines",
        default="random,caa,contribution",
        help="names with commas, '' for none; docs/evaluation.md has all",
    )
    parser.add_argument(
        "--coefficients",
        type=numbers,
        default=[-1.0, -0.5, -0.25],
        help="strengths of the CAA baselines, in vectors; negative ones remove the behaviour",
    )
    parser.add_argument(
        "--biases",
        type=numbers,
        default=[-1.0, -0.5, -0.25],
        help="strengths of the baseline logit-bias, multiples of the tokens' log odds, such as -1,-0.5",
    )
    parser.add_argument(
        "--draws", type=int, default=20, help="how many draws of random neurons the controls have"
    )
    parser.add_argument("--instruction", help="of the baseline prompt (default: the task's own)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=40, help="tokens that an answer may have at most"
    )
    parser.add_argument(
        "--max-thought-tokens", type=int, help="of a thinking model's thoughts before it, apart"
    )
    parser.add_argument(
        "--max-prompts",
        type=int,
        default=None,
        help="evaluation and benign prompts that are answered, each (default: all)",
    )
    parser.add_argument("--mmlu", help="folder or CSV in the MMLU layout")
    parser.add_argument(
        "--quiz-questions", type=int, default=60, help="drawn evenly over subjects; 0: no quiz"
    )
    parser.add_argument(
        "--quiz-by",
        choices=["letter", "text"],
        help="rank A to D, or the choices' text (default: letter with --mmlu, else text)",
    )
    parser.add_argument(
        "--quiz-seed", type=int, default=0, help="of the draw of questions from the quiz"
    )
    parser.add_argument(
        "--allow-leak",
        action="store_true",
        help="accept prompts that discovery and evaluation share; the rate then flatters",
    )
    parser.add_argument(
        "--out", "-o", default="runs/sweep", help="run folder; a stopped run goes on"
    )


@together
def run(args: argparse.Namespace) -> int:
    from .. import discover, many
    from ..circuits.layer_table import layers_sentence
    from ..circuits.operation import load_steering
    from ..many import ranks
    from ..measure.arms import operation_arms
    from ..measure.sweep import sweep
    from ..prompts import tasks
    from ..prompts.quiz import read_quiz

    task = tasks.load(args.task, allow_leak=args.allow_leak)
    operation, chosen = load_steering(args.circuit) if args.circuit else (None, None)
    circuit = operation.circuit if operation else None
    quiz = read_quiz(args.mmlu) if args.mmlu else None
    model = load_model(args)
    shared = ranks.is_distributed()
    if circuit is None:
        find = many.discover_distributed if shared else discover
        circuit = find(
            model, task.positive, task.negative, chat=task.chat, batch_size=args.batch_size
        )
        circuit = many.share_circuit(circuit)
    run = many.sweep_distributed if shared else sweep
    result = run(
        model,
        circuit,
        task,
        args.multipliers,
        [b for b in args.baselines.split(",") if b],
        caa_coefficients=args.coefficients,
        logit_biases=args.biases,
        prompt_baseline=args.instruction,
        random_seeds=range(args.draws),
        max_new_tokens=args.max_new_tokens,
        max_thought_tokens=args.max_thought_tokens,
        batch_size=args.batch_size,
        max_prompts=args.max_prompts,
        quiz=quiz,
        quiz_questions=args.quiz_questions,
        quiz_by=args.quiz_by,
        quiz_seed=args.quiz_seed,
        arms=operation_arms("tuned", operation, [chosen])
        if operation and chosen is not None
        else None,
        out=args.out,
    )
    if result is None:  # rank 0 has it
        return 0
    print(table_text(result.table))
    draws = result.controls()
    if len(draws):
        print(draws.to_string(index=False, float_format="%.3f", na_rep=""))
    if result.layers is not None:
        print(layers_sentence(result.layers))
    if "quiz" in result.settings:
        print(f"accuracy: {result.settings['quiz']}")
    print(f"wrote {args.out}")
    return 0
