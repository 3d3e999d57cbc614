"""What tests that write GGUF files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def finished(writer: Any, path: Path) -> Path:
    """Writes all that a `gguf.GGUFWriter` was given; returns the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
