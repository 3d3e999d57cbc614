"""What the doctor's checks share: what one found, and the model with its prompts and passes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..hosts.model import Model

SUBJECTS = (
    "the sea",
    "a train from Lima to Cusco",
    "why bread rises, in two sentences",
    "cats",
    "the number 7",
)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
LOW_PRECISION = 0.05  # relative; half-precision kernels differ by batch


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what should hold.
        passed: whether it does; true where it does not apply, see `skipped`.
        detail: what was seen.
        fix: what to do; empty if it passed.
    """

    name: str
    passed: bool
    detail: str
    fix: str = ""
    skipped: bool = False

    def __str__(self) -> str:
        mark = "skip" if self.skipped else "pass" if self.passed else "FAIL"
        fix = f"\n      -> {self.fix}" if self.fix else ""
        return f"{mark}  {self.name}: {self.detail}{fix}"


def skip(name: str, why: str) -> Check:
    return Check(name, True, why, skipped=True)


def judge(name: str, passed: bool, detail: str, fix: str) -> Check:
    return Check(name, passed, detail, "" if passed else fix)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest |a - b| over the largest |b|; infinity if either is not finite."""
    if a.shape != b.shape or not bool(a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


class Patient:
    """A model with the prompts and passes that the checks share."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.tokenizer = model.tokenizer
        self.messages = [f"Tell me about {subject}." for subject in SUBJECTS]
        if self.tokenizer is not None:
            self.ids = model.tokenize(self.messages)
        else:
            generator = torch.Generator().manual_seed(0)
            high = max(2, min(model.vocab_size or 100, 1000))
            self.ids = [
                [1, 1, *torch.randint(0, high, (5 + i,), generator=generator).tolist()]
                for i in range(5)
            ]
        exact = TOLERANCE.get(model.dtype, LOW_PRECISION)
        self.tolerance = exact if model.precision == "float32" else LOW_PRECISION
        self._alone: Tensor | None = None

    def logits(self, intervention: _core.Intervention | None = None, **options: Any) -> Tensor:
        steering = _core.Intervention(1) if intervention is None else intervention
        return self.model.core.logits(self.ids, intervention=steering, **options).float()

    def alone(self) -> Tensor:
        """Logits of each prompt alone, without a shared prefix [n, vocab]."""
        if self._alone is None:
            self._alone = self.logits(batch_rows=1, share_prefix=False)
        return self._alone


def read_manifest(path: Path | None) -> dict[str, Any]:
    try:
        text = (path / "manifest.json").read_text(encoding="utf-8") if path else "{}"
        values = json.loads(text)
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}
