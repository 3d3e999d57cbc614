"""What cna does with every causal language model type of transformers, held against plain modules.

Each type is built small (`small.py`), runs on the live host, behind a PEFT adapter and as an export, and
is compared at all three sites, steered at 1 and at 0, and in greedy answers, with ragged prompts that
share a head and reach beyond the window. `make models` writes the table that `cna models` prints.
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cna
import experts_oracle
import torch
from live_oracle import close
from torch import Tensor

from . import small

PROMPTS = [[3, 4, 5, *((7 * i + 5 * row) % 200 + 3 for i in range(n))] for row, n in
           enumerate((12, 9, 12, 10))]  # fmt: skip
NEW = 4
LIMIT = 1e-3  # largest difference over the largest number, float32


class Plain:
    """A module by itself: plain hooks, one prompt at a time, whole."""

    def __init__(self, hf: Any, sites: Sequence[str]) -> None:
        self.hf = hf
        self.parts: list[list[tuple[str, Any]]] = []
        self.blocks: list[Any] = []
        self.outputs: list[Any] = []
        around = next(re.match(r"(.*)\.\d+\.", site) for site in sites if site)
        assert around is not None
        for layer, site in enumerate(sites):
            block = hf.get_submodule(f"{around.group(1)}.{layer}")
            self.blocks.append(block)
            mixed = experts_oracle.parts(block) if site else []
            if all(experts_oracle.is_dense(m) for _, m in mixed):
                mixed = [(site, hf.get_submodule(site))] if site else []
                self.outputs.append(mixed[0][1] if mixed else None)
            else:
                name = mixed[0][0].split(".")[0]
                inside = all(n.split(".")[0] == name for n, _ in mixed)
                self.outputs.append(block.get_submodule(name) if inside else None)
            self.parts.append(mixed)

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        with torch.no_grad():
            return torch.stack([self.hf(input_ids=torch.tensor([p])).logits[0, -1] for p in ids])

    def record(self, ids: Sequence[Sequence[int]]) -> dict[str, list[Tensor | None]]:
        """Each site's activations at the last token by layer, [prompts, features]; None without."""
        seen: dict[tuple[str, int, int], list[Tensor]] = {}

        def before(layer: int, part: int, m: Any) -> Any:
            def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                row = torch.from_numpy(experts_oracle.last_token(m, (*args, *kwargs.values())))
                seen.setdefault(("neuron", layer, part), []).append(row)

            return hook

        def after(site: str, layer: int) -> Any:
            def hook(_: Any, __: Any, out: Any) -> None:
                x = out if isinstance(out, Tensor) else out[0]
                row = x.detach().reshape(-1, x.shape[-1])[-1].double()
                seen.setdefault((site, layer, 0), []).append(row)

            return hook

        hooks = []
        for layer, (parts, block, output) in enumerate(
            zip(self.parts, self.blocks, self.outputs, strict=True)
        ):
            for i, (_, m) in enumerate(parts):
                hooks.append(m.register_forward_pre_hook(before(layer, i, m), with_kwargs=True))
            hooks.append(block.register_forward_hook(after("residual", layer)))
            if output is not None:
                hooks.append(output.register_forward_hook(after("mlp_output", layer)))
        try:
            self.logits(ids)
        finally:
            for hook in hooks:
                hook.remove()
        out: dict[str, list[Tensor | None]] = {"neuron": [], "mlp_output": [], "residual": []}
        for layer, parts in enumerate(self.parts):
            rows = [torch.stack(seen["neuron", layer, i]) for i in range(len(parts))]
            out["neuron"].append(torch.cat(rows, -1) if rows else None)
            for site in ("mlp_output", "residual"):
                found = seen.get((site, layer, 0))
                out[site].append(torch.stack(found) if found else None)
        return out

    def greedy(self, prompt: Sequence[int]) -> list[int]:
        answer: list[int] = []
        for _ in range(NEW):
            answer.append(int(self.logits([[*prompt, *answer]]).argmax()))
        return answer

    @contextlib.contextmanager
    def without(self, circuit: cna.Circuit) -> Iterator[None]:
        """The circuit's neurons are 0: dense ones where they enter, others in their experts' weights."""
        views: list[tuple[Tensor, Tensor]] = []
        hooks: list[Any] = []
        for neuron in circuit:
            index = neuron.index
            for _, m in self.parts[neuron.layer]:
                if 0 <= index < experts_oracle.width(m) and experts_oracle.is_dense(m):
                    hooks.append(m.register_forward_pre_hook(_zeroed(index)))
                elif 0 <= index < experts_oracle.width(m):
                    view = experts_oracle.written(m, index)
                    views.append((view, view.clone()))
                    view.zero_()
                index -= experts_oracle.width(m)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for view, old in views:
                view.copy_(old)


def _zeroed(index: int) -> Any:
    def hook(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0].clone()
        x[..., index] = 0
        return (x, *args[1:])

    return hook


def differences(model: cna.Model, plain: Plain) -> list[str]:
    """What a host gives otherwise than the plain module; empty where nothing."""
    out = []
    logits = plain.logits(PROMPTS)
    if not close(model.logits(PROMPTS), logits, LIMIT):
        out.append("logits")
    expected = plain.record(PROMPTS)
    got = cna.by_layer(model, cna.record(model, PROMPTS, progress=False))
    for layer, row in enumerate(expected["neuron"]):
        if row is not None and not close(got[layer].double(), row, LIMIT):
            out.append(f"neurons of layer {layer}")
            break
    for site in ("mlp_output", "residual"):
        if site == "residual" and not model.core.has_residual_sites:
            continue
        if site == "mlp_output" and any(
            p and o is None for p, o in zip(plain.parts, plain.outputs, strict=True)
        ):
            continue
        recorded = model.record(PROMPTS, site=site).double()
        for layer, row in enumerate(expected[site]):
            if row is not None and not close(recorded[:, layer], row, LIMIT):
                out.append(f"{site} of layer {layer}")
                break
    circuit = cna.discover(model, PROMPTS[:2], PROMPTS[2:], k=20, universal=None, progress=False)
    with model.steer(circuit, 1.0):
        if not close(model.logits(PROMPTS), logits, LIMIT):
            out.append("steering at 1")
    with plain.without(circuit):
        steered, answer = plain.logits(PROMPTS), plain.greedy(PROMPTS[1])
    with model.steer(circuit, 0.0):
        if not close(model.logits(PROMPTS), steered, LIMIT):
            out.append("steering at 0")
        if not _same(model, PROMPTS[1], answer):
            out.append("steered answers")
    if close(steered, logits, 1e-5):
        out.append("no effect of steering")
    if not _same(model, PROMPTS[0], plain.greedy(PROMPTS[0])):
        out.append("answers")
    return out


def _same(model: cna.Model, prompt: list[int], answer: list[int]) -> bool:
    got = model.generate([prompt], max_new_tokens=NEW, return_tokens=True)[0]
    ends = set(model.core.eos_ids)
    cut = next((i for i, token in enumerate(answer) if token in ends), len(answer))
    return list(got) == answer[:cut]


def _notes(model: cna.Model, plain: Plain) -> str:
    out = []
    if model.experts:
        out.append("experts")
    if any(p and o is None for p, o in zip(plain.parts, plain.outputs, strict=True)):
        out.append("no MLP output")
    if not model.core.has_residual_sites:
        out.append("no residual stream")
    if not model.core.has_cache:
        out.append("whole prompts")
    return ", ".join(out)


def _outcome(run: Any) -> tuple[str, str]:
    """(exact, refused, wrong or failed; what was said)."""
    try:
        found, note = run()
    except ValueError as error:
        line = str(error).splitlines()[0]
        return (
            "refused" if re.match(r"(live|export|load|record|discover): ", line) else "failed",
            line,
        )
    except Exception as error:  # a raw one
        return "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ("exact", note) if not found else ("wrong", ", ".join(found))


def row_of(kind: str, folder: Path) -> dict[str, str]:
    """One row of the table: type, live, peft, export, each with its note."""
    row = {
        "type": kind,
        **dict.fromkeys(("live", "live_note", "peft", "export", "export_note"), ""),
    }
    try:
        hf = small.build(kind)
    except small.NotBuilt as error:
        return row | {"live": "not built", "live_note": str(error)}
    held: dict[str, Any] = {}

    def live() -> tuple[list[str], str]:
        model = cna.live(hf, None)
        plain = held["plain"] = Plain(hf, model.core.neuron_sites)
        return differences(model, plain), _notes(model, plain)

    def peft() -> tuple[list[str], str]:
        wrapped = adapter(kind, copy.deepcopy(hf))
        model = cna.live(wrapped, None)
        return differences(model, Plain(wrapped, model.core.neuron_sites)), ""

    def export() -> tuple[list[str], str]:
        path = cna.export(hf, None, folder / kind)
        model = cna.load(path)
        # In an archive the module is the step's `model`.
        plain = Plain(hf, [s.removeprefix("model.") for s in model.core.neuron_sites])
        return differences(model, plain), _notes(model, plain)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row["live"], row["live_note"] = _outcome(live)
        if row["live"] == "exact" and known_to_peft(kind):
            row["peft"], note = _outcome(peft)
            row["live_note"] += f" (PEFT: {note})" if note else ""
        row["export"], row["export_note"] = _outcome(export)
    return row


def known_to_peft(kind: str) -> bool:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

    return kind in known


def adapter(kind: str, hf: Any) -> Any:
    import peft
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as known

    config = peft.LoraConfig(r=2, target_modules=known[kind], init_lora_weights=False)
    return peft.get_peft_model(hf, config).eval()
