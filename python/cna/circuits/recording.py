"""Recording: what the neurons do at the last token of each prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _core
from ..base.later import sparse
from ..base.progress import bar
from ..hosts.model import Model
from ..hosts.tokens import Prompts


def record(
    model: Model,
    prompts: Prompts,
    *,
    site: str = "neuron",
    chat: bool | None = None,
    batch_size: int = 64,
    share_prefix: bool = True,
    positions: Literal["last", "all"] = "last",
    neurons: _core.Circuit | None = None,
    progress: bool = True,
) -> Any:
    """Activations at the last token of each prompt, or at all of them, as the model sees it.

    Args:
        prompts: user messages or lists of token ids.
        site: "neuron" (input of the MLP's down projection), "mlp_output" or "residual".
        positions: "all" gives every token's, of `neurons`.
        neurons: a circuit: only its neurons, in its order.
        share_prefix: compute the tokens that all prompts begin with once. The numbers agree to
            about 1e-6; with False and batch_size=1 they equal plain forward passes bit for bit.
    Returns:
        float32 [n_prompts, n_layers, width] (or hidden_size for the other sites), on the CPU. Where
        layers differ in width, neurons come as [n_prompts, n_neurons], layer by layer: `by_layer`
        shows them apart. With `neurons`: [n_prompts, len(neurons)]; at all positions a list of
        [n_tokens, len(neurons)], one of each prompt.
    Raises:
        ValueError: empty, unequal-typed or over-long prompts; all positions without `neurons`, or these
            at another site; a circuit of another model.
        RuntimeError: NaN or infinity (names prompt and layer).
    """
    if positions not in ("last", "all"):
        raise ValueError(
            f"record: expected positions 'last' or 'all', got {positions!r}; choose one"
        )
    if neurons is not None and site != "neuron":
        raise ValueError(
            f"record: expected site 'neuron' with neurons=, got {site!r}; leave out one of them"
        )
    if neurons is not None:
        rows = record_tokens(
            model, prompts, neurons, chat=chat, batch_size=batch_size, progress=progress
        )
        return rows if positions == "all" else torch.stack([row[-1] for row in rows])
    if positions == "all":
        raise ValueError(
            "record: expected neurons= with positions='all', got none; all neurons at all tokens would "
            "not fit, pass a circuit"
        )
    grid = model.record(
        prompts,
        site=site,
        chat=chat,
        batch_size=batch_size,
        share_prefix=share_prefix,
        progress=progress,
    )
    return grid if site != "neuron" or len(set(model.widths)) == 1 else _neurons(model, grid)


def record_tokens(
    model: Model,
    prompts: Prompts,
    circuit: _core.Circuit,
    *,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
    sink: Callable[[int, Tensor], None] | None = None,
) -> list[Tensor]:
    """Activations of a circuit's neurons at every token: [n_tokens, len(circuit)] of each prompt.

    Args:
        sink: called with the number of each prompt and its activations, as they come; nothing is kept
            then, and the list is empty.
    Raises: as `record`.
    """
    ids = model.tokenize(prompts, chat)
    intervention, arms = model._steering(len(ids), ids)
    found: dict[int, Tensor] = {}

    def keep(prompt: int, activations: Tensor) -> None:
        found[prompt] = activations.clone()

    with bar("record", progress) as update:
        model.core.record_tokens(
            ids,
            circuit,
            sink or keep,
            intervention=intervention,
            arms=arms,
            batch_rows=batch_size,
            progress=update,
        )
    return [found[i] for i in sorted(found)]


def _neurons(model: Model, grid: Tensor) -> Tensor:
    """[prompts, n_layers, width of the widest] -> [prompts, n_neurons], layer by layer."""
    return torch.cat([grid[:, i, :width] for i, width in enumerate(model.widths)], 1)


def record_sparse(
    model: Model,
    prompts: Prompts,
    *,
    chat: bool | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> sparse.csr_array:
    """The neurons that are not 0 at the last token of each prompt: of a mixture, those that ran.

    What was not routed takes no memory; a batch at a time is held whole. Eight bytes a neuron that ran:
    of 48 layers with 8 of 128 experts of 768 neurons running, 2.3 MiB a prompt.

    Returns:
        scipy.sparse.csr_array, float32 [n_prompts, n_neurons], layer by layer as `record` has it.
    Raises: as `record`.
    """
    ids = model.tokenize(prompts, chat)
    intervention, arms = model._steering(len(ids), ids)
    rows: list[sparse.csr_array | None] = [None] * len(ids)

    def keep(which: list[int], grid: Tensor) -> None:
        for row, flat in zip(which, _neurons(model, grid).numpy(), strict=True):
            rows[row] = sparse.csr_array(flat[None])

    with bar("record", progress) as update:
        model.core.record_stream(
            ids,
            "neuron",
            keep,
            intervention=intervention,
            arms=arms,
            batch_rows=batch_size,
            progress=update,
        )
    return sparse.vstack(rows, format="csr")


def by_layer(model: Model, recorded: Tensor) -> list[Tensor]:
    """What `record` gave of the neurons, as one view [n_prompts, width] for each layer.

    Raises:
        ValueError: recordings of another number of neurons.
    """
    if recorded.dim() < 2 or recorded[0].numel() != model.n_neurons:
        raise ValueError(
            f"by_layer: expected recordings of {model.n_neurons} neurons, got {list(recorded.shape)}; "
            "record them on this model"
        )
    return list(recorded.reshape(len(recorded), -1).split(model.widths, 1))
