"""The cache: a Hugging Face model is exported once and found again while nothing changed.

    <cache>/<name>-<dtype>-<key>/  an exported folder, and cached_as.json with what the key is made of

The key knows the commit that the name means now (or the local files), the chat template and the
versions of cna, torch and transformers; a changed one makes a new export.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ..base.files import new_folder
from ..base.log import note
from ..base.versions import versions
from . import hugging_face
from .devices import cuda_capability
from .export import CONTENTS, FORMAT_VERSION, export
from .hugging_face import export_dtype
from .source import source_key

RECORD = "cached_as.json"


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where exports are kept: `cache_dir`, else $CNA_CACHE, else ~/.cache/cna; ~ is the home.

    Raises RuntimeError where a home directory is needed and there is none.
    """
    path = Path(cache_dir or os.environ.get("CNA_CACHE") or "~/.cache/cna")
    try:
        return path.expanduser()
    except RuntimeError:  # no $HOME, and the user is in no list of accounts
        raise RuntimeError(
            f"load: expected a home directory for the cache of exports '{path}', found none; set "
            "CNA_CACHE or pass cache_dir="
        ) from None


def cache_key(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    pattern: str = "",
    format: str = "torchscript",
    device: str | torch.device = "cpu",
    offline: bool = False,
) -> dict[str, Any]:
    """All that an export depends on, by name, as JSON values. Offline, the Hub is not asked."""
    if name != "smollm2" and Path(name).is_dir():
        name = str(Path(name).resolve())
    key: dict[str, Any] = {
        "name": name,
        "dtype": str(export_dtype(dtype)).removeprefix("torch."),
        "pattern": pattern,
        "format": format,
        "format_version": FORMAT_VERSION,
        "contents": CONTENTS,
        **versions(),
        **source_key(name, revision, offline),
    }
    if format == "aoti":
        key["device"] = torch.device(device).type
        key["cpu"] = torch.backends.cpu.get_cpu_capability()
        key["cuda"] = cuda_capability(device)
    return json.loads(json.dumps(key))


def cached_exports(cache_dir: str | os.PathLike[str] | None = None) -> Iterator[tuple[Path, Any]]:
    """The exported folders of the cache and their records, None where an older cna wrote none."""
    root = cache_folder(cache_dir)
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if folder.name.startswith(".") or not (folder / "manifest.json").is_file():
            continue
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            yield folder, record if isinstance(record.get("key"), dict) else None
        except (OSError, ValueError, AttributeError):
            yield folder, None


def export_cached(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    pattern: str = "",
    format: str = "torchscript",
    device: str | torch.device = "cpu",
) -> Path:
    """The exported folder of a model in the cache, made now if it is not there.

    `device` counts for format "aoti" only, which is compiled for it. Where neither the Hub nor
    transformers' cache says what a name means now, its newest export of these versions is taken, and
    a line on stderr says so.
    """
    root = cache_folder(cache_dir)
    key = cache_key(
        name, revision=revision, dtype=dtype, pattern=pattern, format=format, device=device
    )
    if "commit" in key and key["commit"] is None:
        if (known := _newest(root, key, revision)) is not None:
            note(
                f"the Hub does not say what {name} is now; taking the export of commit {known[1][:12]}"
            )
            return known[0]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    place = Path(key["name"])
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", place.name if place.is_absolute() else name)
    folder = root / f"{slug}-{key['dtype']}-{digest}"
    if (folder / "manifest.json").exists():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = lock_of(folder)
        lock.acquire()
    except OSError as error:
        raise RuntimeError(
            f"load: expected to write to '{root}', got {error.strerror or error}; set "
            "CNA_CACHE or pass cache_dir="
        ) from None
    try:
        if not (folder / "manifest.json").exists():
            _export_to(folder, key, revision, device)
    finally:
        lock.release()
    return folder


def lock_of(folder: Path) -> FileLock:
    """The lock of whoever writes or removes an export; free when a process ends or dies."""
    return FileLock(folder.parent / f".{folder.name}.lock")


def _newest(root: Path, key: dict[str, Any], revision: str | None) -> tuple[Path, str] | None:
    """Folder and commit of the newest export that differs from `key` only in what is not known."""
    open_ends = ("commit", "template")
    wanted = {k: v for k, v in key.items() if k not in open_ends}
    found = []
    for folder, record in cached_exports(root):
        if record is None or not record["key"].get("commit"):
            continue
        same = {k: v for k, v in record["key"].items() if k not in open_ends} == wanted
        if same and revision in (record.get("revision"), record["key"]["commit"]):
            found.append((float(record.get("made", 0)), folder, str(record["key"]["commit"])))
    return max(found)[1:] if found else None


def _export_to(
    folder: Path, key: dict[str, Any], revision: str | None, device: str | torch.device
) -> None:
    name, format = key["name"], key["format"]
    slow = ", compiling takes minutes" if format == "aoti" else ""
    note(f"exporting {name} (once, kept in the cache{slow})")
    # By the commit: the branch may move in between.
    commit = key.get("commit")
    model, tokenizer = hugging_face.load_hf(name, key["dtype"], commit or revision)
    if format == "aoti":
        model = model.to(device)
    model_id = None
    if name != "smollm2":
        model_id = Path(name).name if Path(name).is_absolute() else name
    with new_folder(folder, "load") as made:
        export(
            model,
            tokenizer,
            made,
            format=format,
            model_id=model_id,
            tap_pattern=key["pattern"],
            revision=commit,
        )
        record = {"key": key, "revision": revision, "made": time.time()}
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
