"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextlib.contextmanager
def new_file(path: Path, function: str = "save") -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well.

    Raises:
        RuntimeError: the file cannot be written; an older one stays as it was.
    """
    temporary = None
    with _one_line(path, function):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(
                prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent
            )
            os.close(handle)
            temporary = Path(name)
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` fill a temporary file, see `new_file`."""
    with new_file(path) as temporary:
        write(temporary)


@contextlib.contextmanager
def new_folder(path: Path, function: str = "export") -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    Raises:
        RuntimeError: the folder cannot be written; an older one stays as it was.
    """
    temporary = old = None
    with _one_line(path, function):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            yield temporary
            os.chmod(temporary, 0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
                os.replace(path, old / "old")
            os.replace(temporary, path)
        finally:
            if old is not None:
                if not path.exists():  # stopped between the two renames
                    os.replace(old / "old", path)
                shutil.rmtree(old, ignore_errors=True)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _one_line(path: Path, function: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RuntimeError(
            f"{function}: expected to write '{path}', got {reason}; free some space or choose another "
            "folder"
        ) from None


def require_folder(path: Path, function: str) -> None:
    """Makes a folder where files will be kept; RuntimeError before the work if that is not possible."""
    with _one_line(path, function):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def require_file(path: Path, function: str) -> None:
    """Raises FileNotFoundError where nothing is, ValueError where a folder is."""
    if path.is_dir():
        raise ValueError(
            f"{function}: expected a file, got {str(path)!r} (a folder); check the path"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{function}: expected a file, got {str(path)!r} (no such file); check the path"
        )


def append_lines(path: Path, lines: Sequence[str], function: str) -> None:
    """Adds lines to a file in one write that has reached the disk on return.

    Raises RuntimeError where there is no room; what was there before is kept.
    """
    try:
        with path.open("ab") as file:
            file.write(("\n".join(lines) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RuntimeError(
            f"{function}: expected to write '{path}', got {error.strerror}; free some space and start "
            "again, what is finished is kept"
        ) from None
