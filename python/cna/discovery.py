"""Discovery in Python: prompts and universal neurons in, a circuit with provenance out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _core
from .model import Model, Prompts
from .progress import bar
from .prompts import universal_prompts


def _hash(*sets: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps([list(s) for s in sets]).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class UniversalNeurons:
    """Neurons that fire hard for almost every prompt.

    Not the "universal neurons" of Gurnee et al. 2024, which recur across models.

    Attributes:
        neurons: (layer, index) pairs, by layer, then index.
        n_prompts: prompts they were counted on.
        share: of the prompts that must have the neuron in their top `top_fraction`.
        prompt_hash: of the prompts as token ids.
    """

    neurons: tuple[tuple[int, int], ...]
    n_prompts: int
    share: float
    top_fraction: float
    prompt_hash: str

    def __len__(self) -> int:
        return len(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons


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


def universal_neurons(
    model: Model,
    prompts: Prompts | None = None,
    *,
    share: float = 0.8,
    top_fraction: float = 0.001,
    chat: bool | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> UniversalNeurons:
    """Neurons in the top `top_fraction` of all neurons by |a| for at least `share` of the prompts.

    Args:
        prompts: at least 10 diverse prompts; a built-in set by default.
    Raises:
        ValueError: fewer than 10 prompts, or shares outside (0, 1].
    Source: arXiv 2605.12290, section 3.2.
    """
    default = prompts is None
    key = (share, top_fraction, model.uses_chat(chat)) if default else None
    if key is not None and key in model.universal_cache:
        return model.universal_cache[key]
    ids = model.tokenize(universal_prompts() if prompts is None else prompts, chat)
    with bar("universal neurons", progress) as update:
        counter = model.core.count_universal(
            ids, top_fraction, batch_rows=batch_size, progress=update
        )
    out = UniversalNeurons(
        tuple((layer, index) for layer, index in counter.universal(share)),
        len(ids),
        share,
        top_fraction,
        _hash(ids),
    )
    if key is not None:
        model.universal_cache[key] = out
    return out


def discover(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    fraction: float = 0.001,
    k: int | None = None,
    universal: str | UniversalNeurons | None = "default",
    chat: bool | None = None,
    ranking: str = "mean_difference",
    batch_size: int = 64,
    share_prefix: bool = True,
    progress: bool = True,
) -> _core.Circuit:
    """The circuit that tells positive from negative prompts: top k neurons by |delta|.

    delta[l, j] = mean of a[l, j] over positive prompts - mean over negative ones (equation 1 of
    arXiv 2605.12290), at the last token, means in float64, all layers ranked together.

    Args:
        fraction: of all n_layers * width neurons; k = max(1, round(fraction * n_layers * width)).
        k: number of neurons instead of a fraction.
        universal: neurons removed before the top k is taken, so the circuit keeps its size:
            "default" counts them on built-in prompts, None removes none, or pass the result of
            `cna.universal_neurons`.
        ranking: "mean_difference", or "effect_size" (delta over the pooled standard deviation).
    Raises:
        ValueError: bad prompts, fraction outside (0, 1], or k beyond the grid.
        RuntimeError: NaN or infinity in the activations.
    """
    check_size(model, fraction, k)
    sides = model.tokenize(positive, chat), model.tokenize(negative, chat)
    removed: UniversalNeurons | None = None
    if isinstance(universal, UniversalNeurons):
        removed = universal
    elif universal == "default":
        removed = universal_neurons(model, chat=chat, batch_size=batch_size, progress=progress)
    elif universal is not None:
        raise ValueError(
            f"discover: expected universal='default', None or cna.universal_neurons(...), got "
            f"{universal!r}; choose one"
        )
    intervention, _ = model._steering(1)
    with bar("discover", progress) as update:
        circuit = model.core.discover(
            *sides,
            fraction=fraction,
            k=k,
            universal=list(removed.neurons) if removed else [],
            ranking=ranking,
            intervention=intervention,
            batch_rows=batch_size,
            share_prefix=share_prefix,
            progress=update,
        )
    return with_prompt_provenance(circuit, model, sides, removed, chat)


def check_size(model: Model, fraction: float, k: int | None) -> None:
    """Raises ValueError unless `fraction` and `k` name a possible size of a circuit."""
    if k is not None and (isinstance(k, bool) or k != int(k)):
        raise ValueError(f"discover: expected a whole number for k, got {k}; pass an int")
    if not 0 < fraction <= 1:
        raise ValueError(
            f"discover: expected a fraction above 0 and up to 1, got {fraction}; 0.001 is the paper's"
        )
    size = model.n_layers * model.width
    if k is not None and not 1 <= k <= size:
        raise ValueError(
            f"discover: expected k between 1 and {size} neurons, got {k}; choose another k"
        )


def with_prompt_provenance(
    circuit: _core.Circuit,
    model: Model,
    sides: tuple[list[list[int]], list[list[int]]],
    removed: UniversalNeurons | None,
    chat: bool | None,
) -> _core.Circuit:
    """The circuit with the hashes of its prompts (token ids), chat template and universal filter."""
    template = getattr(model.tokenizer, "chat_template", None) if model.uses_chat(chat) else None
    return circuit.with_provenance(
        prompt_hash=_hash(*sides),
        chat_template_sha256=(
            hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None
        ),
        universal_filter=(
            None
            if removed is None
            else {
                "prompts": removed.n_prompts,
                "share": removed.share,
                "top_fraction": removed.top_fraction,
                "prompt_hash": removed.prompt_hash,
                "neurons": len(removed),
            }
        ),
    )
