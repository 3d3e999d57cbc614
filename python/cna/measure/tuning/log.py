"""The file of finished trials: a search that was stopped goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...base.files import append_lines


class TrialLog:
    """Lines of a JSON file, one a batch of trials; the first names what they depend on.

    Raises ValueError for a file of another search.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path = path
        self.batches: list[list[dict[str, Any]]] = []
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = []
        for line in lines:  # a kill may have cut the last one
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        if found and found[0] != {"fingerprint": fingerprint}:
            raise ValueError(
                f"tune: expected '{path.parent}' to hold this search or none, got one of another "
                "model, task or setting; choose another folder"
            )
        self.batches = found[1:]
        whole = [json.dumps(x) for x in (found or [{"fingerprint": fingerprint}])]
        path.write_text("\n".join(whole) + "\n", encoding="utf-8")

    def add(self, batch: list[dict[str, Any]]) -> None:
        """Keeps a finished batch before the next one starts."""
        self.batches.append(batch)
        if self.path is not None:
            append_lines(self.path, [json.dumps(batch)], "tune")
