"""Names: what a name of a model means here, a path or an id, and what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(function: str, name: str | os.PathLike[str]) -> Path:
    """The name as a path, with ~ as the home. Raises RuntimeError where there is no home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise RuntimeError(
            f"{function}: expected a home directory for '{os.fspath(name)}', found none; write the "
            "whole path"
        ) from None


def require_revision(
    function: str, name: str | os.PathLike[str], path: Path, revision: str | None
) -> None:
    """Raises ValueError for a revision of what is no Hugging Face id."""
    if revision is not None and (path.exists() or os.fspath(name) == "smollm2"):
        raise ValueError(
            f"{function}: expected revision= with a Hugging Face id only, got it with "
            f"'{os.fspath(name)}'; leave it out"
        )


def checkpoint(function: str, name: str | os.PathLike[str], path: Path) -> str:
    """What transformers loads under this name: "smollm2", an id, or the path of a local folder.

    Raises FileNotFoundError for a path where nothing is, and for a folder without a model.
    """
    text = os.fspath(name)
    like_path = text.startswith((".", "/", "~")) or text.endswith((".pt", ".pt2"))
    if (like_path or path.is_absolute()) and not path.exists():
        raise FileNotFoundError(
            f"{function}: expected a model at '{text}', found nothing; check the path, or pass 'smollm2'"
        )
    if path.is_dir() and not (path / "config.json").exists():
        raise FileNotFoundError(
            f"{function}: expected an exported or a Hugging Face folder, got '{text}' without "
            "manifest.json or config.json; make one with `cna export`"
        )
    return os.fspath(path) if path.is_dir() and text != "smollm2" else text
