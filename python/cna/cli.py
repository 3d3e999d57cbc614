"""The command line: `cna demo | export | discover | generate | sweep | compare | ...`.

Exit codes: 0 done, 1 a check failed, 2 bad input (one line says what), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], int]


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        "-m",
        default="smollm2",
        help="smollm2, a Hugging Face id or folder, or an export",
    )
    parser.add_argument("--dtype", default=None, help="float32 (default), bfloat16 or float16")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--pattern", default="", help="module path of the down projection (regex)")
    parser.add_argument("--batch-size", type=int, default=64, help="prompts per batch")


def _load(args: argparse.Namespace) -> Any:
    from . import load, ranks

    device = ranks.device_of_rank(args.device)

    def open_model() -> Any:
        return load(args.model, dtype=args.dtype, device=device, pattern=args.pattern)

    return ranks.load_in_turn(open_model) if ranks.is_distributed() else open_model()


def _chat(args: argparse.Namespace, default: bool | None = None) -> bool | None:
    return False if args.raw else default


def _new_file(path: str, what: str) -> Path:
    out = Path(path)
    if out.is_dir():
        raise ValueError(
            f"{what}: expected a file name, got the folder '{path}'; name the file in it"
        )
    return out


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(Path(args.out), args.model, args.prompts, args.max_new_tokens)


def _export(args: argparse.Namespace) -> int:
    from .export import export
    from .hf_model import require_device
    from .loading import load_hf

    require_device("export", args.device)
    hf_model, tokenizer = load_hf(args.model, args.dtype)
    path = export(
        hf_model.to(args.device) if args.format == "aoti" else hf_model,
        tokenizer,
        args.out,
        format=args.format,
        model_id=args.id,
        tap_pattern=args.pattern,
    )
    print(f"wrote {path}")
    return 0


def _together(run: Command) -> Command:
    """Under torchrun, all processes join before a command and leave after it."""

    def together(args: argparse.Namespace) -> int:
        from . import ranks

        with ranks.group(args.command):
            return run(args)

    return together


def _discover(args: argparse.Namespace) -> int:
    from . import discover, tasks, universal_neurons
    from .demo import layer_lines
    from .distributed import discover_distributed, universal_neurons_distributed
    from .prompts import read_prompts
    from .ranks import is_distributed

    chat = _chat(args)
    if args.task:
        task = tasks.load(args.task)
        positive, negative, chat = task.positive, task.negative, _chat(args, task.chat)
    elif args.positive and args.negative:
        positive, negative = read_prompts(args.positive), read_prompts(args.negative)
    else:
        raise ValueError(
            "discover: expected --task, or --positive and --negative, got neither; name a task or two "
            "files of prompts"
        )
    out = _new_file(args.out, "discover")
    model = _load(args)
    universal: Any = None if args.universal == "none" else "default"
    shared = bool(args.resume) or is_distributed()
    if args.universal not in ("default", "none"):
        count = universal_neurons_distributed if shared else universal_neurons
        universal = count(model, read_prompts(args.universal), chat=chat)
    options = {
        "fraction": args.fraction,
        "k": args.k,
        "universal": universal,
        "chat": chat,
        "ranking": args.ranking,
        "batch_size": args.batch_size,
    }
    if shared:
        circuit = discover_distributed(model, positive, negative, resume=args.resume, **options)
    else:
        circuit = discover(model, positive, negative, **options)
    if circuit is None:  # rank 0 has it
        return 0
    circuit.save(out)
    print(circuit)
    print("\n".join(layer_lines(circuit)))
    print(f"wrote {out}")
    return 0


def _generate(args: argparse.Namespace) -> int:
    from . import Circuit
    from .prompts import read_prompts

    prompts = list(args.prompt or [])
    if args.prompts:
        prompts += read_prompts(args.prompts)
    circuit = Circuit.load(args.circuit) if args.circuit else None
    model = _load(args)
    options = {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "seed": args.seed,
        "top_p": args.top_p,
        "chat": _chat(args),
        "batch_size": args.batch_size,
    }
    if circuit is None:
        answers = model.generate(prompts, **options)
    else:
        with model.steer(circuit, args.multiplier):
            answers = model.generate(prompts, **options)
    for prompt, answer in zip(prompts, answers, strict=True):
        if args.json:
            print(json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False))
        else:
            print(f"> {prompt}\n{answer.strip()}\n")
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(x) for x in text.split(",") if x.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as -1,0,1, got '{text}'") from None


def _sweep(args: argparse.Namespace) -> int:
    from . import Circuit, discover, distributed, ranks, tasks
    from .prompts import read_quiz
    from .sweep import sweep

    task = tasks.load(args.task, allow_leak=args.allow_leak)
    circuit = Circuit.load(args.circuit) if args.circuit else None
    quiz = read_quiz(args.mmlu) if args.mmlu else None
    model = _load(args)
    shared = ranks.is_distributed()
    if circuit is None:
        find = distributed.discover_distributed if shared else discover
        circuit = find(model, task.positive, task.negative, chat=task.chat)
        circuit = distributed.share_circuit(circuit)
    run = distributed.sweep_distributed if shared else sweep
    result = run(
        model,
        circuit,
        task,
        args.multipliers,
        [b for b in args.baselines.split(",") if b],
        caa_coefficients=args.coefficients,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        max_prompts=args.max_prompts,
        quiz=quiz,
        quiz_questions=args.quiz_questions,
        out=args.out,
    )
    if result is None:  # rank 0 has it
        return 0
    columns = ["method", "layer", "strength", "rate", "rate_low", "rate_high", "benign_rate"]
    columns += ["quality", "kl", "perplexity", "accuracy", "p_value"]
    shown = result.table[[c for c in columns if c in result.table]]
    print(shown.to_string(index=False, float_format="%.3f", na_rep=""))
    print(f"wrote {args.out}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from . import Circuit, compare

    a, b = Circuit.load(args.a), Circuit.load(args.b)
    overlap = compare(a, b)
    print(
        f"{args.a}: {len(a)} neurons, {100 * a.share_in_last_layers(3):.1f} % in the last 3 layers"
    )
    print(
        f"{args.b}: {len(b)} neurons, {100 * b.share_in_last_layers(3):.1f} % in the last 3 layers"
    )
    print(
        f"shared {overlap.shared}, Jaccard {overlap.jaccard:.4f}, "
        f"hypergeometric log10 p {overlap.log10_p_value:.2f}"
    )
    if args.plot:
        from . import plots

        plots.save(plots.overlap(a, b), _new_file(args.plot, "compare"))
        print(f"wrote {args.plot}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from .report import write_report

    print(f"wrote {write_report(Path(args.folder))}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from . import Circuit
    from .convert import convert

    done = convert(
        Circuit.load(args.circuit),
        args.source,
        args.out,
        format=args.format,
        multiplier=args.multiplier,
        overwrite=args.overwrite,
        quiet=True,
    )
    print(f"wrote {done.path}")
    for note in done.notes:
        print(f"  {note}")
    return 0


def _reproduce(args: argparse.Namespace) -> int:
    from .reproduce import main_reproduce

    return main_reproduce(
        args.model,
        Path(args.out),
        base=args.base,
        quick=args.quick,
        jbb=args.jbb,
        benign=args.benign,
    )


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import main_doctor

    return main_doctor(args.model, device=args.device, pattern=args.pattern)


def _cmake_dir(_: argparse.Namespace) -> int:
    from . import _core

    # Beside the compiled module: in an editable install that is not where this file is.
    print(Path(_core.__file__).parent / "share" / "cmake" / "cna")
    return 0


def build_parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="cna", description="Find, prove and steer the few MLP neurons behind a behaviour."
    )
    parser.add_argument("--version", action="version", version=f"cna {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command("demo", _demo, "The main job on the default model: find, prove, steer, report.")
    sub.add_argument("--out", default="demo-out", help="folder of the results")
    sub.add_argument("--model", default="smollm2")
    sub.add_argument("--prompts", type=int, default=None, help="evaluation prompts (default: all)")
    sub.add_argument("--max-new-tokens", type=int, default=40)

    sub = command("export", _export, "Export a Hugging Face model to a folder for cna and C++.")
    sub.add_argument("--model", "-m", default="smollm2", help="smollm2, an id or a local folder")
    sub.add_argument("--out", "-o", required=True, help="folder to write")
    sub.add_argument("--dtype", default=None, help="float32 (default), bfloat16 or float16")
    sub.add_argument(
        "--format",
        default="torchscript",
        choices=["torchscript", "aoti"],
        help="aoti is compiled for this machine",
    )
    sub.add_argument("--device", default="cpu", help="that aoti compiles for: cpu, cuda")
    sub.add_argument("--id", default=None, help="name for provenance")
    sub.add_argument("--pattern", default="", help="module path of the down projection (regex)")

    sub = command(
        "discover", _together(_discover), "Find the circuit that tells two sets of prompts apart."
    )
    _model_options(sub)
    sub.add_argument("--task", help="built-in task, or a .csv, .jsonl or folder of your own")
    sub.add_argument("--positive", help="prompts with the behaviour: .txt, .csv or .jsonl")
    sub.add_argument("--negative", help="prompts without it")
    sub.add_argument("--out", "-o", default="circuit.json", help="file to write")
    sub.add_argument("--fraction", type=float, default=0.001, help="of all neurons")
    sub.add_argument("--k", type=int, default=None, help="number of neurons instead of a fraction")
    sub.add_argument("--universal", default="default", help="default, none, or a file of prompts")
    sub.add_argument(
        "--ranking", default="mean_difference", choices=["mean_difference", "effect_size"]
    )
    sub.add_argument("--raw", action="store_true", help="no chat template")
    sub.add_argument("--resume", help="folder that keeps what is finished; a stopped run goes on")

    sub = command("generate", _generate, "Answer prompts, steered by a circuit if one is given.")
    _model_options(sub)
    sub.add_argument("prompt", nargs="*", help="prompts")
    sub.add_argument("--prompts", help="file of prompts, or a built-in task")
    sub.add_argument("--circuit", "-c", help="circuit.json")
    sub.add_argument("--multiplier", type=float, default=0.0, help="0 ablates, 1 is the model")
    sub.add_argument("--max-new-tokens", type=int, default=64)
    sub.add_argument("--temperature", type=float, default=0.0)
    sub.add_argument("--top-p", type=float, default=1.0)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--raw", action="store_true", help="no chat template")
    sub.add_argument("--json", action="store_true", help="one JSON object a line")

    sub = command(
        "sweep", _together(_sweep), "Measure strengths, controls and baselines on a task."
    )
    _model_options(sub)
    sub.add_argument("--task", default="capability-refusal")
    sub.add_argument("--circuit", "-c", help="circuit.json (default: discover it)")
    sub.add_argument("--multipliers", type=_numbers, default=[-1.0, 0.0, 0.5, 1.0, 2.0])
    sub.add_argument("--baselines", default="random,caa", help="random,caa,caa-mlp,no-filter")
    sub.add_argument("--coefficients", type=_numbers, default=[-1.0, -0.5, -0.25], help="of CAA")
    sub.add_argument("--max-new-tokens", type=int, default=40)
    sub.add_argument("--max-prompts", type=int, default=None)
    sub.add_argument("--mmlu", help="folder or CSV in the MMLU layout")
    sub.add_argument("--quiz-questions", type=int, default=60)
    sub.add_argument("--allow-leak", action="store_true", help="accept shared prompts")
    sub.add_argument("--out", "-o", default="runs/sweep", help="run folder; a stopped run goes on")

    sub = command("compare", _compare, "Overlap of two circuits.")
    sub.add_argument("a")
    sub.add_argument("b")
    sub.add_argument("--plot", help="PNG file to write")

    sub = command("report", _report, "Write the HTML page of a run folder.")
    sub.add_argument("folder")

    sub = command(
        "convert", _convert, "Ship a circuit: fold it into weights, LoRA, GGUF and others."
    )
    sub.add_argument("circuit")
    sub.add_argument(
        "--format",
        "-f",
        default="hf",
        choices=["hf", "peft", "gguf-lora", "gguf", "control-vector", "authors-json"],
    )
    sub.add_argument("--source", "-s", default="smollm2", help="the model: folder, id or GGUF file")
    sub.add_argument("--multiplier", type=float, default=0.0, help="0 ablates, 1 is the model")
    sub.add_argument("--out", "-o", required=True, help="file or folder to write")
    sub.add_argument("--overwrite", action="store_true")

    sub = command("reproduce", _reproduce, "The paper's experiments: printed, logged and measured.")
    sub.add_argument("--model", "-m", default="smollm2")
    sub.add_argument("--base", default=None, help="the base model of the same family")
    sub.add_argument("--jbb", default=None, help="your CSV in the JailbreakBench layout")
    sub.add_argument("--benign", default=None, help="your benign prompts, as many")
    sub.add_argument("--quick", action="store_true", help="few prompts")
    sub.add_argument("--out", "-o", default="runs/reproduce")

    sub = command("doctor", _doctor, "Check that a model behaves as cna expects.")
    sub.add_argument("model", help="smollm2, a Hugging Face id or folder, or an export")
    sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    sub.add_argument("--pattern", default="", help="module path of the down projection (regex)")

    command("cmake-dir", _cmake_dir, "Print the folder of cna's CMake package.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return args.run(args)
    except (ValueError, IndexError, RuntimeError, OSError) as error:
        print(f"cna {args.command}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cna {args.command}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
