"""The checks of the doctor, one function each.

Every check says what it saw, and on failure what to do. They need a few short forward passes, no data
and no network.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.errors import first_line
from ..base.files import file_sha256
from ..base.installed import DISTRIBUTION, other_cna
from ..hosts.layouts import limits
from ..hosts.model import Model
from ..hosts.source import template_sha256
from ..hosts.tokens import appended_tokens, chat_text

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


def _skip(name: str, why: str) -> Check:
    return Check(name, True, why, skipped=True)


def _judge(name: str, passed: bool, detail: str, fix: str) -> Check:
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
        self.tolerance = TOLERANCE.get(model.dtype, LOW_PRECISION)
        self._alone: Tensor | None = None

    def logits(self, intervention: _core.Intervention | None = None, **options: Any) -> Tensor:
        steering = _core.Intervention(1) if intervention is None else intervention
        return self.model.core.logits(self.ids, intervention=steering, **options).float()

    def alone(self) -> Tensor:
        """Logits of each prompt alone, without a shared prefix [n, vocab]."""
        if self._alone is None:
            self._alone = self.logits(batch_rows=1, share_prefix=False)
        return self._alone


def _leading(ids: Sequence[int], bos: int) -> int:
    return next((i for i, token in enumerate(ids) if token != bos), len(ids))


def one_bos(p: Patient) -> Check:
    name = "one BOS"
    bos = getattr(p.tokenizer, "bos_token_id", None)
    if bos is None:
        return _skip(name, "the tokenizer has none")
    raw = {_leading(ids, bos) for ids in p.model.tokenize(p.messages, chat=False)}
    chat = {_leading(ids, bos) for ids in p.ids} if p.model.uses_chat(None) else raw
    fix = "let either the chat template or the tokenizer write it: mend tokenizer_config.json"
    if max(raw | chat) > 1:
        return Check(name, False, f"prompts begin with {max(raw | chat)} of token {bos}", fix)
    if raw == {1} and chat != {1}:
        return Check(name, False, "raw text gets one, the chat template writes none", fix)
    return Check(name, True, f"chat prompts begin with {max(chat)}, raw text with {max(raw)}")


def prompt_end(p: Patient) -> Check:
    name = "prompts end with text"
    if p.tokenizer is None:
        return _skip(name, "no tokenizer")
    end = appended_tokens(p.tokenizer)
    if not end:
        return Check(name, True, "nothing is written behind a prompt")
    detail = f"the tokenizer writes {end} behind raw text; cna leaves it off"
    if any(ids[-len(end) :] == end for ids in p.model.tokenize(p.messages, chat=False)):
        return Check(name, False, detail, "set add_eos_token to false in tokenizer_config.json")
    return Check(name, True, detail)


def chat_template(p: Patient) -> Check:
    name = "chat template"
    if p.tokenizer is None:
        return _skip(name, "no tokenizer")
    template = getattr(p.tokenizer, "chat_template", None)
    if not template:
        fix = "if it is a base model, pass chat=False; else add its chat_template to the tokenizer"
        return Check(name, False, "none", fix)
    expected = _manifest(p.model.path).get("chat_template_sha256")
    if expected:
        if template_sha256(p.tokenizer) != expected:
            fix = "export the model again, so that circuits name the template they were found with"
            return Check(name, False, "another one than at export", fix)
    now = datetime.datetime.now()
    talk = [{"role": "user", "content": p.messages[0]}]
    settings = p.model.system, p.model.template_kwargs
    texts = [chat_text(p.tokenizer, talk, *settings) for _ in range(2)]
    if p.messages[0] not in texts[0]:
        return Check(
            name, False, "it leaves out or changes the user's message", "mend the template"
        )
    dates = [now.strftime(form) for form in ("%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y")]
    if texts[0] != texts[1] or any(date in texts[0] for date in dates):
        fix = (
            "circuits found today must hold tomorrow: fix it, such as template_kwargs="
            "{'date_string': '26 Jul 2024'} in cna.load, or a date written into the template"
        )
        return Check(name, False, "prompts depend on the date or on chance", fix)
    return Check(name, True, "present and stable")


def padding_sides(p: Patient) -> Check:
    name = "padding sides"
    if p.tokenizer is None:
        return _skip(name, "no tokenizer")
    if getattr(p.tokenizer, "pad_token_id", None) is None:
        return _skip(name, "the tokenizer has no pad token; cna needs none")
    before = p.tokenizer.padding_side
    try:
        for side in ("left", "right"):
            p.tokenizer.padding_side = side
            padded = p.tokenizer.pad({"input_ids": p.ids}, return_tensors="pt")
            rows = _core.unpad(padded["input_ids"], padded["attention_mask"])
            if [list(row) for row in rows] != p.ids:
                fix = "mend the tokenizer's pad(): its attention_mask must name the real tokens"
                return Check(name, False, f"padding on the {side} changes the prompts", fix)
    except (ValueError, RuntimeError) as error:
        return Check(name, False, first_line(error), "mend the tokenizer's pad()")
    finally:
        p.tokenizer.padding_side = before
    return Check(name, True, "left and right give the same prompts")


def end_token(p: Patient) -> Check:
    name = "EOS"
    ids = list(p.model.core.eos_ids)
    fix = "set eos_token_id in the model's generation_config and export it again"
    if not ids:
        return Check(name, False, "none: answers never end", fix)
    if p.model.vocab_size and not all(0 <= i < p.model.vocab_size for i in ids):
        return Check(name, False, f"{ids} lie outside the vocabulary", fix)
    own = getattr(p.tokenizer, "eos_token_id", None)
    if own is not None and own not in ids:
        return Check(name, False, f"the tokenizer ends with {own}, the model with {ids}", fix)
    return Check(name, True, f"token {', '.join(map(str, ids))}")


def _close(p: Patient, name: str, a: Tensor, b: Tensor, fix: str) -> Check:
    worst = relative_difference(a, b)
    detail = f"logits differ by {worst:.1e} (limit {p.tolerance:g})"
    return _judge(name, worst <= p.tolerance, detail, fix)


def layouts(p: Patient) -> Check:
    name = "layouts that agree"
    left_out = limits(p.model.core)
    said = "; ".join(left_out) if left_out else "all: batches, padding, shared prefix, cached steps"
    return Check(name, True, said)


def batch_equals_single(p: Patient) -> Check:
    name = "batch equals single"
    batch = p.logits(share_prefix=False)
    fix = "the model mixes prompts of a batch: use batch_size=1, or report the architecture"
    return _close(p, name, batch, p.alone(), fix)


def shared_prefix(p: Patient) -> Check:
    name = "shared prefix equals none"
    if not p.model.core.has_cache:
        return _skip(name, "the model keeps no keys and values")
    fix = "its cache is not exact: pass share_prefix=False, or report the architecture"
    return _close(p, name, p.logits(share_prefix=True), p.alone(), fix)


def equals_eager(p: Patient, hf_model: Any, why: str) -> Check:
    name = "exported equals Hugging Face"
    if hf_model is None:
        return _skip(name, why)
    rows = []
    with torch.inference_mode():
        for ids in p.ids:
            tokens = torch.tensor([ids], device=hf_model.device)
            rows.append(hf_model(input_ids=tokens).logits[0, -1].float().cpu())
    fix = "export the model again from these weights"
    if hf_model.dtype != p.model.dtype:
        return _skip(name, f"dtypes differ: {hf_model.dtype} against {p.model.dtype}")
    return _close(p, name, p.alone(), torch.stack(rows), fix)


def zero_neurons(p: Patient) -> Check:
    name = "no neurons change nothing"
    empty = _core.Circuit((p.model.n_layers, p.model.width), [])
    same = torch.equal(
        p.logits(_core.Intervention.scale(empty, [0.0]), batch_rows=1, share_prefix=False),
        p.alone(),
    )
    detail = "logits are bit-identical" if same else "logits differ"
    return _judge(name, same, detail, "the model is not deterministic: switch its dropout off")


def multiplier_one(p: Patient) -> Check:
    name = "multiplier 1 is the model"
    layers, width = p.model.n_layers, p.model.width
    each = max(1, width // 8)
    places = [_core.Neuron(i, j * (width // each), 1.0) for i in range(layers) for j in range(each)]
    circuit = _core.Circuit((layers, width), places)
    same = torch.equal(
        p.logits(_core.Intervention.scale(circuit, [1.0]), batch_rows=1, share_prefix=False),
        p.alone(),
    )
    detail = f"logits are bit-identical at {len(circuit)} neurons" if same else "logits differ"
    return _judge(name, same, detail, "the model is not deterministic: switch its dropout off")


def _manifest(path: Path | None) -> dict[str, Any]:
    try:
        text = (path / "manifest.json").read_text(encoding="utf-8") if path else "{}"
        values = json.loads(text)
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def own_package() -> Check:
    name = "one package named cna"
    other = other_cna()
    fix = f"pip uninstall cna, then install {DISTRIBUTION} again: both write the folder cna"
    detail = DISTRIBUTION if other is None else f"the index's project cna {other} is installed too"
    return _judge(name, other is None, detail, fix)


def archive_hash(path: Path | None) -> Check:
    name = "archive is as exported"
    if path is None or not (path / "manifest.json").exists():
        return _skip(name, "not an exported folder")
    manifest = _manifest(path)
    archive = path / str(manifest.get("archive", "model.pt"))
    fix = "export the model again"
    if not manifest.get("sha256") or not archive.is_file():
        return Check(name, False, "the manifest or the archive is missing or damaged", fix)
    same = file_sha256(archive) == manifest["sha256"]
    detail = "SHA-256 matches the manifest" if same else "SHA-256 differs from the manifest"
    return _judge(name, same, detail, fix)
