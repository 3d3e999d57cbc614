"""Recording: what the neurons do at the last token of each prompt."""

from __future__ import annotations

from torch import Tensor

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
        float32 [n_prompts, n_layers, width] (or hidden_size for the other sites), on the CPU.
    Raises:
        ValueError: empty, unequal-typed or over-long prompts.
        RuntimeError: NaN or infinity (names prompt and layer).
    """
    return model.record(
        prompts,
        site=site,
        chat=chat,
        batch_size=batch_size,
        share_prefix=share_prefix,
        progress=progress,
    )
