"""`cna models`: which model types work live and exported, as the survey found them."""

from __future__ import annotations

import argparse

TEXT = "Which model types of transformers work, live and exported."
STATES = ("exact", "refused", "not built")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("type", nargs="*", help="model types, as in config.json (default: all)")
    parser.add_argument("--live", choices=STATES, help="only those that are so on the live host")
    parser.add_argument(
        "--export", choices=STATES[:2], help="only types with this status of the export"
    )
    parser.add_argument("--notes", action="store_true", help="with what each host says of it")


def run(args: argparse.Namespace) -> int:
    from ..hosts.capabilities import capabilities, surveyed_with

    table = capabilities()
    if unknown := sorted(set(args.type) - set(table["type"])):
        raise ValueError(
            f"models: expected types that were surveyed, got '{unknown[0]}'; open it with cna.live, "
            "which compares it with plain passes"
        )
    if args.type:
        table = table[table["type"].isin(args.type)]
    for host in ("live", "export"):
        if wanted := getattr(args, host):
            table = table[table[host] == wanted]
    shown = ["type", "live", "peft", "export"]
    if args.notes or args.type:
        shown += ["live_note", "export_note"]
    print(table[shown].to_string(index=False))
    counts = [f"{(table[host] == 'exact').sum()} exact {how}" for host, how in
              (("live", "live"), ("export", "exported"))]  # fmt: skip
    print(f"{len(table)} types: {', '.join(counts)} ({surveyed_with()})")
    return 0
