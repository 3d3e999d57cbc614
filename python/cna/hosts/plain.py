"""What a Hugging Face module gives by itself: the reference that every host is held against.

Prompts run one at a time, whole, without a cache and without padding: nothing of cna's takes part.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import block_name
from .experts import experts_at
from .placement import input_device, is_dtensor, ranks
from .windows import text_config

LAST = 5  # places of a prompt whose logits are kept
SHORTEST = LAST
SHARED = 3  # first tokens that all probes have in common


@contextlib.contextmanager
def evaluating(hf_model: nn.Module) -> Iterator[None]:
    """Without dropout; each module's training flag is its owner's again on exit."""
    training = [m for m in hf_model.modules() if m.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def parameters_of(hf_model: Any) -> Any:
    """Names that the model's forward knows, also inside an adapter's wrapper."""
    inner = hf_model.get_base_model() if hasattr(hf_model, "get_base_model") else hf_model
    return inspect.signature(type(inner).forward).parameters


def options(hf_model: Any, **wanted: Any) -> dict[str, Any]:
    """Those that the model's forward knows."""
    known = parameters_of(hf_model)
    return {name: value for name, value in wanted.items() if name in known}


def whole(x: Any) -> Tensor:
    """A tensor with all its parts."""
    return x.full_tensor() if is_dtensor(x) else x


def tolerance(hf_model: Any) -> float:
    """Relative difference that a cached or padded pass may have."""
    wide = hf_model.dtype in (torch.float32, torch.float64)
    exact = torch.get_float32_matmul_precision() == "highest"  # no TF32
    rounds = getattr(hf_model, "hf_quantizer", None) is not None
    return 1e-3 if wide and exact and not rounds else 0.05


def close(got: Tensor, expected: Tensor, limit: float) -> bool:
    """Largest difference within `limit` of the largest number; NaN counts as 0."""
    got, expected = got.float().cpu().nan_to_num(), expected.float().cpu().nan_to_num()
    if got.shape != expected.shape:
        return False
    return bool((got - expected).abs().max() <= limit * expected.abs().max())


def probes(hf_model: Any, longest: int) -> list[list[int]]:
    """Four prompts with a common head: `longest` tokens twice, two fewer, and `SHORTEST`."""
    configs = (hf_model.config, text_config(hf_model))
    names = ("token_id", "token_index")
    special = {v for c in configs for k, v in vars(c).items() if k.endswith(names)}
    vocab = int(text_config(hf_model).vocab_size)
    plain = [i for i in range(2, vocab) if i not in special] or [0]
    head = [plain[7 * i % len(plain)] for i in range(SHARED)]
    out = []
    for which, tokens in enumerate((longest, longest, max(longest - 2, SHORTEST), SHORTEST)):
        steps = range(SHARED, tokens)
        out.append(head + [plain[(7 * i + 5 * which) % len(plain)] for i in steps])
    return out


class Plain:
    """Plain passes over some prompts.

    Attributes:
        prompts: their token ids.
        logits: of each prompt's last `keep` tokens, [keep, vocab].
        neurons: what entered each block's down projections at the last token, [MLPs, width of the
            widest] each, 0 behind narrower ones; empty where processes share the model, none of which
            sees them whole.
        residual: what left each block with MLPs there, [blocks, hidden] each; likewise.
        streams: whether every block's first output is one stream of the prompt, [tokens, hidden].
        calls: how often each down projection ran in the first prompt, by name.
        limit: relative difference within which a host agrees.
        device: where tokens go.
    """

    def __init__(
        self,
        hf_model: Any,
        prompts: Sequence[Sequence[int]],
        downs: Sequence[tuple[str, nn.Module]] = (),
        blocks: Sequence[nn.Module] = (),
        keep: int = LAST,
        weighted: bool = False,
    ) -> None:
        self.prompts = [list(p) for p in prompts]
        self.limit = tolerance(hf_model)
        self.device = input_device(hf_model)
        self.logits: list[Tensor] = []
        self.neurons: list[Tensor] = []
        self.residual: list[Tensor] = []
        self.streams = True
        self.calls = dict.fromkeys((name for name, _ in downs), 0)
        seen: dict[str, Tensor] = {}
        left: dict[int, Tensor] = {}
        shared = ranks(hf_model) > 1
        hidden = int(text_config(hf_model).hidden_size) if blocks else 0

        def before(name: str, module: nn.Module) -> Any:
            experts = None if shared else experts_at(name, module)

            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self.calls[name] += not self.logits
                if experts is not None:
                    with torch.no_grad():
                        seen[name] = experts.last_token(weighted, *args, **kwargs)
                elif not shared:
                    seen[name] = args[0].detach().reshape(-1, args[0].shape[-1])[-1].float().cpu()

            return hook

        def after(number: int) -> Any:
            def hook(_: nn.Module, __: Any, out: Any) -> None:
                x = out if isinstance(out, Tensor) else out[0]
                tokens = len(self.prompts[len(self.logits)])
                self.streams &= x.numel() == tokens * hidden
                if not shared:
                    left[number] = x.detach().reshape(-1, x.shape[-1])[-1].float().cpu()

            return hook

        hooks = [
            module.register_forward_pre_hook(before(name, module), with_kwargs=True)
            for name, module in downs
        ]
        hooks += [block.register_forward_hook(after(i)) for i, block in enumerate(blocks)]
        few = options(hf_model, use_cache=False, logits_to_keep=keep)
        try:
            for ids in self.prompts:
                seen.clear()
                left.clear()
                tokens = torch.tensor([ids], device=self.device)
                with torch.no_grad():
                    out = hf_model(input_ids=tokens, return_dict=True, **few)
                self.logits.append(whole(out.logits)[0, -keep:].float().cpu())
                parts: dict[str, list[Tensor]] = {}
                for name, _ in downs:
                    if name in seen:
                        parts.setdefault(block_name(name), []).append(seen[name])
                rows = [torch.cat(part) for part in parts.values()]
                widest = max((len(row) for row in rows), default=0)
                padded = [F.pad(row, (0, widest - len(row))) for row in rows]
                self.neurons += [torch.stack(padded)] if padded else []
                behind = {  # by block, of which a mixture's has several MLPs
                    block_name(n): left[i]
                    for i, (n, _) in enumerate(downs)
                    if self.calls[n] and i in left
                }
                rows = list(behind.values())
                self.residual += [torch.stack(rows)] if _even(rows) else []
        finally:
            for hook in hooks:
                hook.remove()


def _even(rows: list[Tensor]) -> bool:
    return len({row.shape for row in rows}) == 1
