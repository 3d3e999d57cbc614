"""`cna export`: writes a model for cna and C++."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "Export a Hugging Face model to a folder for cna and C++."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "-m", default="smollm2", help="smollm2, an id or a local folder")
    parser.add_argument(
        "--revision", default=None, help="branch, tag or commit of a Hugging Face id"
    )
    parser.add_argument("--out", "-o", required=True, help="folder to write")
    parser.add_argument("--dtype", default=None, help="float32 (default), bfloat16 or float16")
    parser.add_argument(
        "--format",
        default="torchscript",
        choices=["torchscript", "aoti"],
        help="aoti is compiled for this machine",
    )
    parser.add_argument("--device", default="cpu", help="that aoti compiles for: cpu, cuda")
    parser.add_argument("--id", default=None, help="name for provenance")
    parser.add_argument("--pattern", default="", help="module path of the down projection (regex)")


def run(args: argparse.Namespace) -> int:
    from ..hosts.devices import require_device
    from ..hosts.export import export
    from ..hosts.hugging_face import load_hf
    from ..hosts.source import hub_commit

    require_device("export", args.device)
    local = args.model == "smollm2" or Path(args.model).expanduser().exists()
    commit = None if local else hub_commit(args.model, args.revision)
    hf_model, tokenizer = load_hf(args.model, args.dtype, commit or args.revision)
    path = export(
        hf_model.to(args.device) if args.format == "aoti" else hf_model,
        tokenizer,
        args.out,
        format=args.format,
        model_id=args.id,
        tap_pattern=args.pattern,
        revision=commit,  # as cna.load names it
    )
    print(f"wrote {path}")
    return 0
