"""`cna cache`: what the cache of exports holds, and how to empty it."""

from __future__ import annotations

import argparse
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEXT = "List or clear the cache of exports."
DAY = 86400.0
_UNFINISHED = re.compile(r"^\.+(.+-[0-9a-f]{12})\.")
_SHOWN = ("name", "revision", "dtype", "format", "size", "age", "made with", "state")


def options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="action", required=True, help="list or clear"
    )
    text = "Name, dtype, size, age, versions, and whether `cna.load` would take it now."
    listing = actions.add_parser("list", help=text, description=text)
    text = "Remove exports; they are made again when they are needed."
    clear = actions.add_parser("clear", help=text, description=text)
    clear.add_argument("name", nargs="*", help="of a model or a folder in the list (default: all)")
    clear.add_argument(
        "--older-than", type=float, metavar="DAYS", help="only exports that were made before"
    )
    clear.add_argument(
        "--outdated",
        action="store_true",
        help="only exports of other versions or of a checkpoint that has changed since",
    )
    clear.add_argument("--yes", action="store_true", help="remove them; else they are only listed")
    for one in (listing, clear):
        one.add_argument("--cache-dir", help="folder (default: $CNA_CACHE or ~/.cache/cna)")


def run(args: argparse.Namespace) -> int:
    from ..hosts.export_cache import cache_folder

    root = cache_folder(args.cache_dir)
    entries = [_entry(folder, record) for folder, record in _exports(args.cache_dir)]
    if args.action == "list":
        return _list(root, entries)
    return _clear(args, root, entries)


def _exports(cache_dir: str | None) -> Iterator[tuple[Path, Any]]:
    from ..hosts.export_cache import cached_exports

    return cached_exports(cache_dir)


def _list(root: Path, entries: list[dict[str, Any]]) -> int:
    if not entries:
        print(f"no exports in {root}")
    else:
        _print(entries)
        total = sum(e["bytes"] for e in entries)
        print(f"{len(entries)} in {root}, {_size(total)}")
    if rest := list(_unfinished(root)):
        size = _size(sum(_bytes(path) for path, _ in rest))
        print(f"{len(rest)} unfinished, {size}; `cna cache clear --yes` removes them")
    return 0


def _clear(args: argparse.Namespace, root: Path, entries: list[dict[str, Any]]) -> int:
    chosen = entries
    if args.name:
        for name in args.name:
            if not any(name in e["names"] for e in entries):
                raise ValueError(
                    f"cache: expected a name of `cna cache list`, got '{name}'; copy it from there"
                )
        chosen = [e for e in chosen if e["names"] & set(args.name)]
    if args.older_than is not None:
        if not args.older_than >= 0:
            raise ValueError(
                f"cache: expected 0 or more days as --older-than, got {args.older_than:g}; 30 keeps "
                "the last month's"
            )
        chosen = [e for e in chosen if e["seconds"] >= args.older_than * DAY]
    if args.outdated:
        chosen = [e for e in chosen if e["state"] != "current"]
    rest = [] if args.name else list(_unfinished(root))
    if not chosen and not rest:
        print("nothing to remove")
        return 0
    if chosen:
        _print(chosen)
    size = _size(sum(e["bytes"] for e in chosen) + sum(_bytes(path) for path, _ in rest))
    if not args.yes:
        raise ValueError(
            f"cache: expected --yes to remove {len(chosen)} exports ({size}), got none; add it"
        )
    kept = [e["folder"].name for e in chosen if not _remove(e["folder"], e["folder"])]
    kept += [path.name for path, export in rest if not _remove(path, export)]
    print(f"removed {len(chosen) + len(rest) - len(kept)}, {size}")
    for name in kept:
        print(f"  kept {name}: a process is writing it")
    return 0


def _remove(path: Path, export: Path) -> bool:
    """Removes a folder unless a process holds the lock of its export."""
    from filelock import Timeout

    from ..hosts.export_cache import lock_of

    try:
        with lock_of(export).acquire(timeout=0):
            gone = path.with_name(f".{export.name}.removed.{time.time_ns()}")
            path.rename(gone)  # whoever opens it sees all of it or nothing
            shutil.rmtree(gone)
            Path(lock_of(export).lock_file).unlink(missing_ok=True)
    except Timeout:
        return False
    except OSError as error:
        raise RuntimeError(
            f"cache: expected to remove '{path}', got {error.strerror or error}; check its permissions"
        ) from None
    return True


def _unfinished(root: Path) -> Iterator[tuple[Path, Path]]:
    """What killed exports left: the folder, and the export that it was to be."""
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if path.is_dir() and (found := _UNFINISHED.match(path.name)):
                yield path, root / found[1]


def _entry(folder: Path, record: Any) -> dict[str, Any]:
    key = record["key"] if record else _of_manifest(folder)
    made = float(record["made"]) if record else (folder / "manifest.json").stat().st_mtime
    size, seconds = _bytes(folder), max(0.0, time.time() - made)
    versions = [f"{name} {key[name]}" for name in ("cna", "torch", "transformers") if key.get(name)]
    return {
        "folder": folder,
        "names": {folder.name, str(key.get("name")), Path(str(key.get("name"))).name},
        "bytes": size,
        "seconds": seconds,
        "name": str(key.get("name", folder.name)),
        "revision": (record or {}).get("revision") or (key.get("commit") or "")[:12],
        "dtype": str(key.get("dtype", "")),
        "format": str(key.get("format", "")),
        "size": _size(size),
        "age": _age(seconds),
        "made with": ", ".join(versions),
        "state": _state(record),
    }


def _of_manifest(folder: Path) -> dict[str, Any]:
    """What an export of an older cna says of itself."""
    import json

    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return {
            "name": manifest["model_id"],
            "dtype": manifest["dtype"],
            "format": manifest["archive_format"],
            **manifest["made_with"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _state(record: Any) -> str:
    """ "current", or why `cna.load` would not take it."""
    from ..hosts.export_cache import cache_key

    if record is None:
        return "old: made by an older cna"
    then, name = record["key"], record["key"]["name"]
    if Path(name).is_absolute() and not Path(name).is_dir():
        return "old: the model's folder is gone"
    try:
        now = cache_key(
            name,
            revision=record.get("revision"),
            dtype=then["dtype"],
            pattern=then["pattern"],
            format=then["format"],
            device=then.get("device", "cpu"),
            offline=True,
        )
    except (RuntimeError, ValueError, AssertionError) as error:  # a package or a device is missing
        return f"not for this machine: {str(error).splitlines()[0]}"
    if then.get("commit") and now.get("commit") is None:
        return "not known: its commit is in no local cache"
    changed = [k for k in {**then, **now} if then.get(k) != now.get(k)]
    said = [
        k if k in ("files", "template") else f"{k} {_short(then.get(k))} -> {_short(now.get(k))}"
        for k in changed
    ]
    return f"old: {', '.join(said)}" if said else "current"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,64}", text) else text


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


def _age(seconds: float) -> str:
    for size, unit in ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


def _print(entries: list[dict[str, Any]]) -> None:
    rows = [[str(e[column]) for column in _SHOWN] for e in entries]
    widths = [max(len(row[i]) for row in (list(_SHOWN), *rows)) for i in range(len(_SHOWN))]
    for row in (list(_SHOWN), *rows):
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
