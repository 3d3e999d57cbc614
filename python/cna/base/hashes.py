"""One short hash of values, by which prompts and runs are known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any


def hash_of(*sets: Sequence[Any]) -> str:
    """16 hex digits of SHA-256 over lists of JSON values."""
    return hashlib.sha256(json.dumps([list(s) for s in sets]).encode()).hexdigest()[:16]
