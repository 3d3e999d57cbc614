"""Where a model's files stand now: the commit that a name means, its files, its chat template."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .hugging_face import smollm2_source

_COMMIT = re.compile(r"snapshots/([0-9a-f]{40})/")
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


def hub_commit(name: str, revision: str | None = None, offline: bool = False) -> str | None:
    """The commit that a Hub id and revision mean now, 40 hexadecimal digits; None if not known.

    Asks the Hub as transformers would when it loads the model; offline, or where the Hub does not
    answer, the local cache says what it last saw.
    """
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(name, "config.json", revision=revision, local_files_only=offline)
    except Exception:  # no such name, no network, nothing in the cache: loading it says which
        return None
    found = _COMMIT.search(Path(path).as_posix()) if path else None
    return found[1] if found else None


def source_key(name: str, revision: str | None = None, offline: bool = False) -> dict[str, Any]:
    """What an export of this name is made from, as JSON values.

    commit: of the Hub, or None; files: name, bytes and time of local ones; template: hash of the
    chat template in them.
    """
    if name == "smollm2":
        return {"files": _files(smollm2_source()[0])}
    folder = Path(name)
    if folder.is_dir():
        template = _template({f: folder / f for f in _TEMPLATES})
        return {"files": _files(folder), "template": template}
    commit = hub_commit(name, revision, offline)
    return {"commit": commit, "template": _hub_template(name, commit, offline) if commit else None}


def template_sha256(
    tokenizer: Any, system: str | None = None, template_kwargs: Mapping[str, Any] | None = None
) -> str | None:
    """SHA-256 of a tokenizer's chat template, hexadecimal, with what it is told; None without one."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    found = hashlib.sha256(text.encode()).hexdigest()
    if system is None and not template_kwargs:
        return found
    extra = json.dumps([found, system, dict(template_kwargs or {})], sort_keys=True, default=str)
    return hashlib.sha256(extra.encode()).hexdigest()


def _files(folder: Path) -> list[list[Any]]:
    """[name, bytes, time in ns] of what a checkpoint is made of, by name."""
    inner = folder / "additional_chat_templates"
    found = [f for part in (folder, inner) if part.is_dir() for f in part.iterdir() if f.is_file()]
    stats = ((f.relative_to(folder).as_posix(), f.stat()) for f in found)
    return sorted([name, s.st_size, s.st_mtime_ns] for name, s in stats)


def _hub_template(name: str, commit: str, offline: bool) -> str | None:
    from transformers.utils.hub import cached_file

    paths: dict[str, Path] = {}
    for file in _TEMPLATES:
        try:
            path = cached_file(
                name,
                file,
                revision=commit,
                local_files_only=offline,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except Exception:  # as above
            continue
        if path:
            paths[file] = Path(path)
    return _template(paths)


def _template(paths: dict[str, Path]) -> str | None:
    """SHA-256 of the template in the first of these files that holds one."""
    for file in _TEMPLATES:
        path = paths.get(file)
        if path is None or not path.is_file():
            continue
        try:
            text: Any = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                text = json.loads(text).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue  # loading the tokenizer says what is wrong with it
        if text:
            return hashlib.sha256(json.dumps(text).encode()).hexdigest()
    return None
