"""Where the weights of a live model lie: on one device or several, offloaded, or shared by processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .weights import weights_hash


def _hooks(module: nn.Module) -> list[Any]:
    """accelerate's hooks on a module; they bring offloaded weights and inputs to where they compute."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def is_dispatched(hf_model: nn.Module) -> bool:
    """Whether `device_map` or an offload put hooks on the model."""
    return any(_hooks(module) for module in hf_model.modules())


def input_device(hf_model: Any) -> torch.device:
    """The device that tokens go to: where the embedding computes."""
    embedding = hf_model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return embedding.weight.device
    for module in (embedding, *hf_model.modules()):
        for hook in _hooks(module):
            if (device := getattr(hook, "execution_device", None)) is not None:
                return torch.device(device)
    raise ValueError(
        "live: expected a model with weights, got one on the meta device; load its weights, or offload "
        "them with accelerate"
    )


def ranks(hf_model: nn.Module) -> int:
    """Processes that share the weights (tensor parallelism); 1 if this one has them all."""
    parts: list[Any] = [p for p in hf_model.parameters() if is_dtensor(p)]
    return max((p.device_mesh.size() for p in parts), default=1)


def is_dtensor(x: Any) -> bool:
    """Whether a tensor is one process's view of one that several hold."""
    if type(x) in (Tensor, nn.Parameter) or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(x, DTensor)


def safe_hash(hf_model: Any) -> str:
    """`weights_hash` of the same model in one piece; empty where a quantiser hides its tensors."""

    def whole(name: str, tensor: Tensor) -> Tensor:
        if is_dtensor(tensor):
            return tensor.full_tensor()  # type: ignore[attr-defined]
        if tensor.device.type != "meta":
            return tensor
        module, _, leaf = name.rpartition(".")
        for hook in _hooks(hf_model.get_submodule(module)):
            if getattr(hook, "weights_map", None) is not None:
                return hook.weights_map[leaf]
        raise RuntimeError(f"no data for {name}")

    try:
        return weights_hash(hf_model, whole)
    except (RuntimeError, TypeError, AttributeError, KeyError):
        return ""


def require_movable(hf_model: nn.Module) -> None:
    """Raises ValueError for models whose weights lie where their owner put them."""
    processes = ranks(hf_model)
    if processes == 1 and not is_dispatched(hf_model):
        return
    spread = f"shared by {processes} processes" if processes > 1 else "placed by device_map"
    raise ValueError(
        f"Model.to: expected a model in one place, got one {spread}; load it again where it should run"
    )
