"""The command line: `cna demo | export | discover | generate | sweep | compare | ...`.

Exit codes: 0 done, 1 a check failed, 2 bad input (one line says what), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import commands as cmd
from .errors import first_line


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


def _integers(text: str) -> list[int]:
    try:
        return [int(x) for x in text.split(",") if x.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layers such as 15,20, got '{text}'") from None


def _numbers(text: str) -> list[float]:
    try:
        return [float(x) for x in text.split(",") if x.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as -1,0,1, got '{text}'") from None


def build_parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="cna", description="Find, prove and steer the few MLP neurons behind a behaviour."
    )
    parser.add_argument("--version", action="version", version=f"cna {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name: str, run: cmd.Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "demo", cmd.run_demo, "The main job on the default model: find, prove, steer, report."
    )
    sub.add_argument("--out", default="demo-out", help="folder of the results")
    sub.add_argument("--model", default="smollm2")
    sub.add_argument("--prompts", type=int, default=None, help="evaluation prompts (default: all)")
    sub.add_argument("--max-new-tokens", type=int, default=40)

    sub = command(
        "export", cmd.run_export, "Export a Hugging Face model to a folder for cna and C++."
    )
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
        "discover",
        cmd.together(cmd.run_discover),
        "Find the circuit that tells two sets of prompts apart.",
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

    sub = command(
        "generate", cmd.run_generate, "Answer prompts, steered by a circuit if one is given."
    )
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
        "sweep", cmd.together(cmd.run_sweep), "Measure strengths, controls and baselines on a task."
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

    sub = command("compare", cmd.run_compare, "Overlap of two circuits.")
    sub.add_argument("a")
    sub.add_argument("b")
    sub.add_argument("--plot", help="PNG file to write")

    sub = command("report", cmd.run_report, "Write the HTML page of a run folder.")
    sub.add_argument("folder")

    sub = command(
        "convert", cmd.run_convert, "Ship a circuit: fold it into weights, LoRA, GGUF and others."
    )
    sub.add_argument(
        "circuit", help="circuit.json; for control-vector a task, whose CAA is written"
    )
    sub.add_argument(
        "--format",
        "-f",
        default="hf",
        choices=["hf", "peft", "gguf-lora", "gguf", "control-vector", "authors-json"],
    )
    sub.add_argument("--source", "-s", default="smollm2", help="the model: folder, id or GGUF file")
    sub.add_argument("--multiplier", type=float, default=0.0, help="0 ablates, 1 is the model")
    sub.add_argument("--out", "-o", required=True, help="file or folder to write")
    sub.add_argument("--pattern", default="", help="module path of the down projection (regex)")
    sub.add_argument(
        "--layers", type=_integers, help="of a control vector, e.g. 15,20; default: all"
    )
    sub.add_argument(
        "--architecture", default="llama", help="llama.cpp's name, for a control vector"
    )
    sub.add_argument("--overwrite", action="store_true")

    sub = command(
        "reproduce", cmd.run_reproduce, "The paper's experiments: printed, logged and measured."
    )
    sub.add_argument("--model", "-m", default="smollm2")
    sub.add_argument("--base", default=None, help="the base model of the same family")
    sub.add_argument("--jbb", default=None, help="your CSV in the JailbreakBench layout")
    sub.add_argument("--benign", default=None, help="your benign prompts, as many")
    sub.add_argument("--quick", action="store_true", help="few prompts")
    sub.add_argument("--out", "-o", default="runs/reproduce")

    sub = command("doctor", cmd.run_doctor, "Check that a model behaves as cna expects.")
    sub.add_argument("model", help="smollm2, a Hugging Face id or folder, or an export")
    sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    sub.add_argument("--pattern", default="", help="module path of the down projection (regex)")

    command("cmake-dir", cmd.print_cmake_dir, "Print the folder of cna's CMake package.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return args.run(args)
    except BrokenPipeError:  # the reader of a pipe has seen enough, such as `head`
        sys.stdout = None  # type: ignore[assignment] # nothing is left to flush to
        return 0
    except (ValueError, IndexError, RuntimeError, OSError) as error:
        print(f"cna {args.command}: {first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cna {args.command}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
