"""Recording: what the neurons do at the last token of each prompt."""

from __future__ import annotations

import scipy.sparse
import torch
from torch import Tensor

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
    progress: bool = True,
) -> Tensor:
    """Activations at the last token of each prompt, as the model sees it.

    Args:
        prompts: user messages or lists of token ids.
        site: "neuron" (input of the MLP's down projection), "mlp_output" or "residual".
        share_prefix: compute the tokens that all prompts begin with once. The numbers agree to
            about 1e-6; with False and batch_size=1 they equal plain forward passes bit for bit.
    Returns:
        float32 [n_prompts, n_layers, width] (or hidden_size for the other sites), on the CPU. Where
        layers differ in width, neurons come as [n_prompts, n_neurons], layer by layer: `by_layer`
        shows them apart.
    Raises:
        ValueError: empty, unequal-typed or over-long prompts.
        RuntimeError: NaN or infinity (names prompt and layer).
    """
    grid = model.record(
        prompts,
        site=site,
        chat=chat,
        batch_size=batch_size,
        share_prefix=share_prefix,
        progress=progress,
    )
    return grid if site != "neuron" or len(set(model.widths)) == 1 else _neurons(model, grid)


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
) -> scipy.sparse.csr_array:
    """The neurons that are not 0 at the last token of each prompt: of a mixture, those that ran.

    What was not routed takes no memory; a batch at a time is held whole. Eight bytes a neuron that ran:
    of 48 layers with 8 of 128 experts of 768 neurons running, 2.3 MiB a prompt.

    Returns:
        scipy.sparse.csr_array, float32 [n_prompts, n_neurons], layer by layer as `record` has it.
    Raises: as `record`.
    """
    ids = model.tokenize(prompts, chat)
    intervention, arms = model._steering(len(ids), ids)
    rows: list[scipy.sparse.csr_array | None] = [None] * len(ids)

    def keep(which: list[int], grid: Tensor) -> None:
        for row, flat in zip(which, _neurons(model, grid).numpy(), strict=True):
            rows[row] = scipy.sparse.csr_array(flat[None])

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
    return scipy.sparse.vstack(rows, format="csr")


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
