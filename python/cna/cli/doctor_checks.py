"""The doctor's checks of the numbers and of the files, one function each.

Every check says what it saw, and on failure what to do. They need a few short forward passes, no data
and no network.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _core
from ..base.files import file_sha256
from ..base.installed import DISTRIBUTION, other_cna
from ..hosts.layouts import limits
from ..hosts.plain import Plain, probes
from ..hosts.windows import affordable, longest_window
from .doctor_patient import Check, Patient, judge, read_manifest, relative_difference, skip


def _close(p: Patient, name: str, a: Tensor, b: Tensor, fix: str) -> Check:
    worst = relative_difference(a, b)
    detail = f"logits differ by {worst:.1e} (limit {p.tolerance:g})"
    return judge(name, worst <= p.tolerance, detail, fix)


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
        return skip(name, "the model keeps no keys and values")
    fix = "its cache is not exact: pass share_prefix=False, or report the architecture"
    return _close(p, name, p.logits(share_prefix=True), p.alone(), fix)


def equals_eager(p: Patient, hf_model: Any, why: str) -> Check:
    name = "exported equals Hugging Face"
    if hf_model is None:
        return skip(name, why)
    if hf_model.dtype != p.model.dtype:
        return skip(name, f"dtypes differ: {hf_model.dtype} against {p.model.dtype}")
    plain = Plain(hf_model, [*p.ids, *_beyond_the_window(hf_model)], keep=1)
    got = p.model.core.logits(plain.prompts, batch_rows=1, share_prefix=False).float()
    fix = "export the model again from these weights"
    return _close(p, name, got, torch.cat(plain.logits), fix)


def equals_graph(p: Patient) -> Check:
    name = "faster form equals the graph"
    path = p.model.path
    if path is None or p.model.device.type != "cpu":
        return skip(name, "only of archives on a CPU")
    if read_manifest(path if path.is_dir() else None).get("archive_format") == "aoti":
        return skip(name, "a compiled package has one form")
    graph = _core.Model.load(path, p.model.pattern, "cpu", verify=False, fuse=False)
    plain = graph.logits(p.ids, batch_rows=1, share_prefix=False).float()
    fix = "open it with cna.load(name, fuse=False), and report the architecture"
    found = _close(p, name, p.alone(), plain, fix)
    form = p.model.core.products.replace("_", " ")
    return dataclasses.replace(found, detail=f"{found.detail}; products {form}")


def _beyond_the_window(hf_model: Any) -> list[list[int]]:
    """A prompt that exceeds the sliding window, where a pass of that length is cheap."""
    window = longest_window(hf_model)
    return probes(hf_model, window + 5)[:1] if 0 < window + 5 <= affordable(hf_model) else []


def zero_neurons(p: Patient) -> Check:
    name = "no neurons change nothing"
    empty = _core.Circuit(
        (p.model.n_layers, p.model.width), [], widths=p.model.widths, experts=p.model.experts
    )
    same = torch.equal(
        p.logits(_core.Intervention.scale(empty, [0.0]), batch_rows=1, share_prefix=False),
        p.alone(),
    )
    detail = "logits are bit-identical" if same else "logits differ"
    return judge(name, same, detail, "the model is not deterministic: switch its dropout off")


def multiplier_one(p: Patient) -> Check:
    name = "multiplier 1 is the model"
    places = [
        _core.Neuron(layer, index, 1.0)
        for layer, width in enumerate(p.model.widths)
        for index in range(0, width, 8)
    ]
    shape = p.model.n_layers, p.model.width
    circuit = _core.Circuit(shape, places, widths=p.model.widths, experts=p.model.experts)
    same = torch.equal(
        p.logits(_core.Intervention.scale(circuit, [1.0]), batch_rows=1, share_prefix=False),
        p.alone(),
    )
    detail = f"logits are bit-identical at {len(circuit)} neurons" if same else "logits differ"
    return judge(name, same, detail, "the model is not deterministic: switch its dropout off")


def own_package() -> Check:
    name = "one package named cna"
    other = other_cna()
    fix = f"pip uninstall cna, then install {DISTRIBUTION} again: both write the folder cna"
    detail = DISTRIBUTION if other is None else f"the index's project cna {other} is installed too"
    return judge(name, other is None, detail, fix)


def archive_hash(path: Path | None) -> Check:
    name = "archive is as exported"
    if path is None or not (path / "manifest.json").exists():
        return skip(name, "not an exported folder")
    manifest = read_manifest(path)
    archive = path / str(manifest.get("archive", "model.pt"))
    fix = "export the model again"
    if not manifest.get("sha256") or not archive.is_file():
        return Check(name, False, "the manifest or the archive is missing or damaged", fix)
    same = file_sha256(archive) == manifest["sha256"]
    detail = "SHA-256 matches the manifest" if same else "SHA-256 differs from the manifest"
    return judge(name, same, detail, fix)
