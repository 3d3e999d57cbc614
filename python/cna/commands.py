"""What each command of `cna` does with its arguments; cli.py reads them.

A command returns its exit code. Imports are inside, so that `cna --help` answers at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], int]


def together(run: Command) -> Command:
    """Under torchrun, all processes join before a command and leave after it."""

    def joined(args: argparse.Namespace) -> int:
        from . import ranks

        with ranks.group(args.command):
            return run(args)

    return joined


def _load(args: argparse.Namespace) -> Any:
    from . import load, ranks

    device = ranks.device_of_rank(args.device)

    def open_model() -> Any:
        return load(args.model, dtype=args.dtype, device=device, pattern=args.pattern)

    return ranks.load_in_turn(open_model) if ranks.is_distributed() else open_model()


def _chat(args: argparse.Namespace, default: bool | None = None) -> bool | None:
    return False if args.raw else default


def _new_file(path: str, what: str) -> Path:
    from .files import require_folder

    out = Path(path)
    if out.is_dir():
        raise ValueError(
            f"{what}: expected a file name, got the folder '{path}'; name the file in it"
        )
    require_folder(out.parent, what)
    return out


def run_demo(args: argparse.Namespace) -> int:
    from . import demo

    return demo.run_demo(Path(args.out), args.model, args.prompts, args.max_new_tokens)


def run_export(args: argparse.Namespace) -> int:
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


def run_discover(args: argparse.Namespace) -> int:
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
        more = {"resume": args.resume} if shared else {}
        prompts = read_prompts(args.universal)
        universal = count(model, prompts, chat=chat, batch_size=args.batch_size, **more)
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


def run_generate(args: argparse.Namespace) -> int:
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


def run_sweep(args: argparse.Namespace) -> int:
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
        circuit = find(
            model, task.positive, task.negative, chat=task.chat, batch_size=args.batch_size
        )
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


def run_compare(args: argparse.Namespace) -> int:
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


def run_report(args: argparse.Namespace) -> int:
    from .report import write_report

    print(f"wrote {write_report(Path(args.folder))}")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    from . import Circuit
    from .convert import convert

    vectors = args.format == "control-vector"
    done = convert(
        _caa_vectors(args) if vectors else Circuit.load(args.circuit),
        args.architecture if vectors else args.source,
        args.out,
        format=args.format,
        multiplier=args.multiplier,
        pattern=args.pattern,
        overwrite=args.overwrite,
        quiet=True,
    )
    print(f"wrote {done.path}")
    for note in done.notes:
        print(f"  {note}")
    return 0


def _caa_vectors(args: argparse.Namespace) -> Any:
    """CAA vectors of a task's prompts, without that of layer 0, which llama.cpp cannot steer."""
    from . import caa, load, tasks

    task = tasks.load(args.circuit)
    model = load(args.source, pattern=args.pattern)
    layers = args.layers or range(1, model.n_layers)
    return caa(model, task.positive, task.negative, layers=list(layers), chat=task.chat)


def run_reproduce(args: argparse.Namespace) -> int:
    from .reproduce import main_reproduce

    return main_reproduce(
        args.model,
        Path(args.out),
        base=args.base,
        quick=args.quick,
        jbb=args.jbb,
        benign=args.benign,
    )


def run_doctor(args: argparse.Namespace) -> int:
    from .doctor import main_doctor

    return main_doctor(args.model, device=args.device, pattern=args.pattern)


def print_cmake_dir(_: argparse.Namespace) -> int:
    from . import _core

    # Beside the compiled module: in an editable install that is not where this file is.
    print(Path(_core.__file__).parent / "share" / "cmake" / "cna")
    return 0
