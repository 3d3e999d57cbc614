"""One short hash of values, by which prompts and runs are known again."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def hash_of(*values: Any) -> str:
    """16 hex digits of SHA-256 over JSON values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
