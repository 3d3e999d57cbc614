"""By what an arm is known again: in run.json, and in the file of finished answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch

from ..base.hashes import hash_of
from .arm import Arm


def about_arm(arm: Arm) -> dict[str, Any]:
    """An arm as JSON values: its fields, and the digest of its edits in place of them."""
    fields = {f.name: _json(getattr(arm, f.name)) for f in dataclasses.fields(arm)}
    del fields["intervention"]
    return fields | {"digest": arm.intervention.digest}


def mark(arm: Arm) -> str:
    """The arm's key and a hash of all that it does: two circuits of one name have two marks."""
    return f"{arm.key}|{hash_of(about_arm(arm))}"


def _json(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {list(value.shape)} {hashlib.sha256(data).hexdigest()[:16]}"
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)
