"""Layouts: how prompts lie in a step, and which of them give the numbers of the plain module.

    alone      one prompt in steps, on the keys and values of earlier ones
    batch      several of one length beside it
    padding    of unequal length, padded in front
    sharing    on the keys and values that one of them left of their common head
    room       in buffers with places behind the new tokens' (only archives are asked)

A host compares each with plain passes when it is made (`Plain`), within a sliding window and beyond
it, and leaves out what differs; without the first it runs whole prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _core
from . import windows
from .hf_model import max_positions
from .plain import LAST, Plain, close, probes, whole
from .windows import Masks

Step = Callable[..., Any]  # ids, mask, positions, keep, places, key and value buffers -> logits

SHORT = 11  # tokens of the longest probe, where no window asks for more


@dataclasses.dataclass(frozen=True)
class Layouts:
    """Those that give the plain module's numbers; more than one prompt `alone` is never doubted."""

    batch: bool = True
    padding: bool = True
    share_prefix: bool = True
    room: bool = False

    def weaker(self) -> Layouts | None:
        """The next that asks less; None behind one prompt alone."""
        if self.padding:
            return Layouts(padding=False)
        return Layouts(batch=False, padding=False) if self.batch else None


def limits(core: _core.Model) -> list[str]:
    """What a model does not do, in words; empty if prompts may lie in any way."""
    if not core.has_cache:
        return ["one prompt at a time"]
    found = core.layouts
    out = []
    if not found["batch"]:
        out.append("one prompt at a time, in cached steps")
    elif not found["padding"]:
        out.append("only prompts of equal length together")
    return out if found["share_prefix"] else [*out, "no shared prefix"]


def notes_of(model: Any) -> list[str]:
    """Shape, dtype, device and limits, as a model's `repr` names them."""
    shape = f"{model.n_layers} layers x {model.width} neurons"
    notes = [shape, str(model.dtype), str(model.device), *limits(model.core)]
    if left_out := model.generation_settings_left_out:
        notes.append(f"greedy, without the checkpoint's {', '.join(left_out)}")
    return notes


# --- one step against plain passes ------------------------------------------------------------------


def steps_agree(
    step: Step,
    plain: Plain,
    rows: Sequence[int],
    buffers: Callable[[int, int], list[Tensor]],
    room: int = 0,
) -> bool:
    """Whether prompts `rows` of `plain`, side by side in cached steps, give its logits.

    All but the last tokens enter at once, those one by one; each step is compared.

    Args:
        buffers: (rows, tokens) -> keys and values to be filled, as the step wants them.
        room: places behind the last token; above 0, all steps see the same buffers.
    """
    prompts = [plain.prompts[row] for row in rows]
    total = max(map(len, prompts))
    ids = torch.tensor([[0] * (total - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (total - len(p)) + [1] * len(p) for p in prompts])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    filled = buffers(len(rows), total + room)
    mask = torch.cat([mask, mask.new_ones(len(rows), room)], 1)
    device, limit = plain.device, plain.limit
    start = 0
    for place in range(LAST):
        end = total - LAST + 1 + place
        keep = torch.tensor([end - start - 1])
        seen = total + room if room else end
        places = torch.arange(start, end)
        inputs = (ids[:, start:end], mask[:, :seen], positions[:, start:end], keep, places)
        with torch.no_grad():
            logits = step(*(t.to(device) for t in inputs), *(b[:, :, :seen] for b in filled))
        expected = torch.stack([plain.logits[row][place] for row in rows])
        if not close(whole(logits)[:, 0], expected, limit):
            return False
        start = end
    return True


# Rows of `probes` that lie beside each other: unequal, equal, and one alone.
_ROWS = ([0, 2, 3], [0, 1], [0])


def layouts_of(step: Step, plain: Plain, buffers: Any, at_most: Layouts) -> Layouts | None:
    """What of `at_most` a step does as the plain module; None if not even one prompt alone."""
    found: Layouts | None = at_most
    while found is not None:
        rows = _ROWS[0] if found.padding else _ROWS[1] if found.batch else _ROWS[2]
        if steps_agree(step, plain, rows, buffers):
            return found
        found = found.weaker()
    return None


def choose_masks(
    hf_model: Any, make_step: Callable[[Masks], Step], plain: Plain, buffers: Any
) -> tuple[Masks, Layouts] | tuple[None, str]:
    """The way of masking that does most as the plain module, and what; else why there is none."""
    best: tuple[Masks, Layouts] | None = None
    reason = "its logits differ from the plain module's"
    beyond: Plain | None = None
    if windows.longest_window(hf_model) >= len(plain.prompts[0]):
        with windows.narrowed(hf_model):
            beyond = Plain(hf_model, plain.prompts)
    for masks in windows.ways_of_masking(hf_model):
        try:
            found = layouts_of(make_step(masks), plain, buffers, Layouts())
            if found is not None and beyond is not None:
                with windows.narrowed(hf_model):
                    step = make_step(windows.narrow(masks))
                    found = layouts_of(step, beyond, buffers, found)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model does that takes other masks or another cache
            reason = f"{type(error).__name__}: {error}"
            continue
        if found is not None and (best is None or _much(found) > _much(best[1])):
            best = masks, found
        if best is not None and best[1] == Layouts():
            break
    return best if best is not None else (None, reason)


def _much(layouts: Layouts) -> int:
    return layouts.batch + layouts.padding


def plain_passes(hf_model: Any, downs: Any = (), blocks: Any = (), weighted: bool = False) -> Plain:
    """Passes over probes, longer than the model's window where that can be afforded."""
    window = windows.longest_window(hf_model)
    reach = window + 5 if window + 5 <= windows.affordable(hf_model) else 0
    longest = min(max(SHORT, reach), max_positions(hf_model.config) or 1024)
    return Plain(hf_model, probes(hf_model, longest), downs, blocks, weighted=weighted)


def with_mlps(core: _core.Model, recorded: Tensor) -> Tensor:
    """Of recordings [prompts, layers, features], the layers that have an MLP."""
    return recorded[:, [layer for layer, width in enumerate(core.widths) if width]]


# --- a whole host against plain passes --------------------------------------------------------------


def runs_agree(core: _core.Model, plain: Plain, rows: Sequence[int], share_prefix: bool) -> bool:
    """Whether the C++ runner gives the plain logits and recordings of some prompts.

    Where those overflow there is nothing to compare: the runner raises an error then.
    """
    prompts = [plain.prompts[row] for row in rows]
    parts: list[tuple[list[Tensor], Callable[[], Tensor]]] = [
        (
            [plain.logits[row][-1] for row in rows],
            lambda: core.logits(prompts, share_prefix=share_prefix),
        ),
        (
            [plain.neurons[row] for row in rows] if plain.neurons else [],
            lambda: with_mlps(core, core.record(prompts, "neuron", share_prefix=share_prefix)),
        ),
    ]
    for expected, run in parts:
        if expected and bool(torch.stack(expected).isfinite().all()):
            if not close(run(), torch.stack(expected), plain.limit):
                return False
    return True


def settle(
    make: Callable[[Layouts], _core.Model], plain: Plain, at_most: Layouts
) -> _core.Model | None:
    """The host that uses what agrees with plain passes through the C++ runner; None if nothing does."""
    rows = range(len(plain.prompts))
    found: Layouts | None = at_most
    while found is not None:
        core = make(found)
        if runs_agree(core, plain, rows, share_prefix=False):
            if runs_agree(core, plain, rows, share_prefix=True):
                return core
            return make(dataclasses.replace(found, share_prefix=False))
        found = found.weaker()
    return None
