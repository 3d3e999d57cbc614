"""A GGUF file opened or finished: which one a source means, whole or refused, of what architecture."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from .files import require
from .gguf_header import check_header, one_line


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`; one clear line for what is no whole GGUF file."""
    gguf = require("gguf")
    if not path.is_file():
        raise FileNotFoundError(
            f"convert: expected a GGUF file at '{path}', found none; check the path"
        )
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    try:
        little = check_header(path, sizes) and sys.byteorder == "little"
        reader = gguf.GGUFReader(path) if little else None
    except OSError as error:
        raise RuntimeError(
            f"convert: expected to read '{path}', got {error.strerror}; check its permissions"
        ) from None
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"convert: expected a whole GGUF file, got '{path}' ({one_line(str(error))}); download "
            "it again"
        ) from None
    if reader is None:
        raise ValueError(
            f"convert: expected a little-endian GGUF file, got '{path}'; convert its byte order "
            "first"
        )
    return reader


def gguf_path(source: Any) -> Path | None:
    """The GGUF file behind a source ("smollm2" included), or None for other sources."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    text = os.fspath(source)
    if text == "smollm2" and not Path(text).exists():
        from ..hosts.hugging_face import smollm2_source

        folder, name = smollm2_source()
        return folder / name
    path = Path(text).expanduser()
    return path if path.is_file() or path.suffix == ".gguf" else None


def stated_architecture(reader: Any) -> str:
    """What the file says that it is, such as "llama"; "" where it does not."""
    field = reader.fields.get("general.architecture")
    try:
        name = field.contents() if field is not None else None
    except UnicodeDecodeError:
        name = None
    return name if isinstance(name, str) else ""


def architecture(reader: Any, path: Path) -> str:
    """What the file says that it is; ValueError where it does not."""
    name = stated_architecture(reader)
    if not name:
        raise ValueError(
            f"convert: expected the name of an architecture in '{path}', got none; download it "
            "again"
        )
    return name


def finish(writer: Any) -> None:
    """Writes what a `gguf.GGUFWriter` was given: header, fields, tensors."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
