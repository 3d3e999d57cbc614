"""`cna export`: writes a model for cna and C++."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import place_options

TEXT = "Export a Hugging Face model to a folder for cna and C++."


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "-m", default="smollm2", help="smollm2, an id or a local folder")
    parser.add_argument(
        "--revision", default=None, help="branch, tag or commit of a Hugging Face id"
    )
    parser.add_argument("--out", "-o", required=True, help="folder to write")
    place_options(parser)
    parser.add_argument(
        "--format",
        default="torchscript",
        choices=["torchscript", "aoti"],
        help="torchscript runs anywhere; aoti is compiled for this machine, which takes minutes",
    )
    parser.add_argument(
        "--id", default=None, help="name of the model in circuits that are found with the export"
    )
    parser.add_argument("--pattern", default="", help="module path of the down projection (regex)")


def run(args: argparse.Namespace) -> int:
    from ..hosts.auto import announce, choose_device, choose_dtype, is_auto
    from ..hosts.export import export
    from ..hosts.hugging_face import load_hf
    from ..hosts.source import hub_commit

    compiled = args.format == "aoti"
    device = choose_device("export", "cpu" if compiled and is_auto(args.device) else args.device)
    local = args.model == "smollm2" or Path(args.model).expanduser().exists()
    commit = None if local else hub_commit(args.model, args.revision)
    revision = commit or args.revision
    dtype = choose_dtype(args.dtype, device, args.model, revision)
    if is_auto(args.dtype):
        announce(args.model, device, dtype)
    hf_model, tokenizer = load_hf(args.model, dtype, revision)
    path = export(
        hf_model.to(device) if compiled else hf_model,
        tokenizer,
        args.out,
        format=args.format,
        model_id=args.id,
        tap_pattern=args.pattern,
        revision=commit,  # as cna.load names it
    )
    print(f"wrote {path}")
    return 0
