"""What a module's weights say: what its neurons write, and how the answer is read off the stream.

Norms are not told by their class: their gain is measured on the module, so that a gain stored as 1 + w,
a LayerNorm or a quantised layer read alike. Which norm stands where is seen in one short pass.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from .experts import holds_experts
from .placement import input_device, is_dtensor
from .sites import layer_above, layer_numbers

PROBE = (5, 3, 7)  # token ids


@dataclasses.dataclass(frozen=True)
class Readout:
    """The module's own parts; see cna/torch/readout.hpp.

    head: of the language model; norm: the final one; post_norms: behind each layer's MLP, or none.
    """

    downs: dict[int, nn.Module]  # by layer
    head: nn.Module
    head_name: str
    norm: nn.Module
    post_norms: dict[int, nn.Module]

    def write(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """(weight [hidden, width], gain of the norm behind the MLP [hidden] or None)."""
        norm = self.post_norms.get(layer)
        weight = write_weight(self.downs[layer])
        return weight, None if norm is None else norm_gain(norm, weight.shape[0])[0]

    def post_gains(self) -> Tensor | None:
        """Gains of the norms behind the MLPs, [layers, hidden], 0 without an MLP; None: no norms."""
        if not self.post_norms:
            return None
        known = {layer: self.write(layer)[1] for layer in self.downs}
        none = torch.zeros_like(next(gain for gain in known.values() if gain is not None))
        rows = [known.get(layer) for layer in range(max(known) + 1)]
        return torch.stack([none if row is None else row for row in rows])

    def parts(self) -> tuple[Tensor, Tensor, bool]:
        """(unembedding [vocab, hidden], gain of the final norm, whether that takes the mean off)."""
        head: Any = self.head
        gain, centred = norm_gain(self.norm, head.weight.shape[1])
        return whole(head.weight), gain, centred


def readout_of(hf_model: Any, downs: list[tuple[str, nn.Module]]) -> Readout | None:
    """None where the final norm, the head or a norm behind the MLPs is not found, or for experts."""
    if any(holds_experts(module) for _, module in downs):
        return None
    head = hf_model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    hidden = weight.shape[1]
    followers = _followers(hf_model, downs, head, hidden)
    norm = followers.get(None)
    posts = {layer: post for layer, post in followers.items() if layer is not None}
    if norm is None or len(posts) not in (0, len(downs)):
        return None
    if any(norm_gain(post, hidden)[1] for post in list(posts.values())[:1]):
        return None  # a norm that takes the mean off is not linear in one scale
    name = next(name for name, module in hf_model.named_modules() if module is head)
    layers = layer_numbers(downs)
    modules = {n: module for n, (_, module) in zip(layers, downs, strict=True)}
    return Readout(modules, head, name, norm, posts)


def whole(weight: Any) -> Tensor:
    """A weight in one piece; of a tensor-parallel model all processes ask for it together."""
    return weight.full_tensor().detach() if is_dtensor(weight) else weight.detach()


def _local(x: Any) -> Tensor:
    return x.to_local() if is_dtensor(x) else x


@torch.inference_mode()
def write_weight(down: nn.Module) -> Tensor:
    """Weight of a down projection as [hidden, width]; measured where the layer is no plain one."""
    kind = type(down).__name__
    weight: Any = getattr(down, "weight", None)
    if kind == "Conv1D":  # GPT-2 keeps the transpose
        return whole(weight).t()
    if type(down) is nn.Linear or is_dtensor(weight):
        return whole(weight)
    width = int(getattr(down, "in_features", 0) or weight.shape[-1])
    like = next((p for p in down.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if like is None else like.dtype
    device = next(down.parameters()).device
    zero = down(torch.zeros(1, width, dtype=dtype, device=device)).float()
    return (down(torch.eye(width, dtype=dtype, device=device)).float() - zero).t()


@torch.inference_mode()
def norm_gain(norm: nn.Module, hidden: int) -> tuple[Tensor, bool]:
    """(gain [hidden], takes the mean off?), by what the norm makes of +1, -1, +1, ... and of ones."""
    like = next(norm.parameters())
    # So large that the norm's epsilon does not count.
    signs = torch.ones(hidden, dtype=like.dtype, device=like.device)
    signs[1::2] = -1
    if hidden % 2:
        signs[-1] = 0
    size = 64.0

    def odd(x: Tensor) -> Tensor:  # without the bias
        return ((norm(size * x[None, None]) - norm(-size * x[None, None])) / 2)[0, 0].float()

    ones = odd(torch.ones_like(signs))
    centred = bool(ones.abs().max() < 1e-3 * odd(signs).abs().max())
    if not centred:
        return ones, False
    gain = odd(signs) * signs.float()
    if hidden % 2:  # the last one: from a turned pattern
        gain[-1] = (odd(signs.roll(1)) * signs.roll(1).float())[-1]
        gain *= ((hidden - 1) / hidden) ** 0.5
    return gain, True


def _followers(
    hf_model: Any, downs: list[tuple[str, nn.Module]], head: nn.Module, hidden: int
) -> dict[int | None, nn.Module]:
    """The norm before the head (None), and the norm that takes each MLP's output, by layer."""
    found: dict[int | None, nn.Module] = {}
    last: dict[int, tuple[nn.Module, int]] = {}  # what each norm gave, by where its numbers lie
    outputs: dict[int, int] = {}  # layer by where its MLP's output lies
    layers = layer_numbers(downs)
    blocks = {n: layer_above(hf_model, name) for n, (name, _) in zip(layers, downs, strict=True)}

    def is_norm(module: nn.Module) -> bool:
        sizes = [tuple(p.shape) for p in module.parameters(recurse=False)]
        return not list(module.children()) and bool(sizes) and set(sizes) == {(hidden,)}

    def after_norm(module: nn.Module, args: Any, out: Any) -> None:
        out = _local(out)
        layer = outputs.get(_local(args[0]).data_ptr())
        if layer is not None and any(m is module for m in blocks[layer].modules()):
            found.setdefault(layer, module)
        last[out.data_ptr()] = (module, out.numel())

    def before_head(_: nn.Module, args: Any) -> None:
        start = _local(args[0]).untyped_storage().data_ptr()
        if start in last:
            found[None] = last[start][0]

    hooks = [head.register_forward_pre_hook(before_head)]
    hooks += [m.register_forward_hook(after_norm) for m in hf_model.modules() if is_norm(m)]
    for layer, (_, down) in zip(layers, downs, strict=True):

        def after_down(_: nn.Module, __: Any, out: Any, layer: int = layer) -> None:
            outputs[_local(out).data_ptr()] = layer

        hooks.append(down.register_forward_hook(after_down))
    try:
        with torch.inference_mode():
            ids = torch.tensor([PROBE], device=input_device(hf_model))
            hf_model(input_ids=ids % hf_model.config.get_text_config().vocab_size)
    finally:
        for hook in hooks:
            hook.remove()
    return found
