"""Universal neurons: those that fire hard for almost every prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..base.progress import bar
from ..hosts.about import steering_active
from ..hosts.model import Model
from ..hosts.tokens import Prompts
from ..prompts.readers import universal_prompts
from .provenance import prompt_hash


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

    def __repr__(self) -> str:
        return f"UniversalNeurons({len(self)} neurons of {self.n_prompts} prompts)"

    def __len__(self) -> int:
        return len(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        return neuron in self.neurons


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

    Inside `with model.steer(...)` those of the steered model; they are counted anew for each.

    Args:
        prompts: at least 10 diverse prompts; a built-in set by default.
    Raises:
        ValueError: fewer than 10 prompts, or shares outside (0, 1].
    Source: arXiv 2605.12290, section 3.2.
    """
    default = prompts is None
    intervention, _ = model._steering(1)
    key = None
    if default:
        steering = tuple(steering_active(model))
        key = (share, top_fraction, model.uses_chat(chat), steering)
    if key is not None and key in model.universal_cache:
        return model.universal_cache[key]
    ids = model.tokenize(universal_prompts() if prompts is None else prompts, chat)
    with bar("universal neurons", progress) as update:
        counter = model.core.count_universal(
            ids,
            top_fraction,
            intervention=intervention,
            batch_rows=batch_size,
            progress=update,
        )
    out = UniversalNeurons(
        tuple((layer, index) for layer, index in counter.universal(share)),
        len(ids),
        share,
        top_fraction,
        prompt_hash(ids),
    )
    if key is not None:
        model.universal_cache[key] = out
    return out


def universal_filter(
    universal: str | UniversalNeurons | None,
    count: Callable[[], UniversalNeurons | None],
    function: str = "discover",
) -> UniversalNeurons | None:
    """The neurons that an argument `universal` asks to remove; None removes none.

    Args:
        count: counts them on the built-in prompts, for "default".
        function: whose argument it is, for messages.
    Raises:
        ValueError: something else than "default", None or `UniversalNeurons`.
    """
    if universal is None or isinstance(universal, UniversalNeurons):
        return universal
    if universal == "default":
        return count()
    raise ValueError(
        f"{function}: expected universal='default', None or cna.universal_neurons(...), got "
        f"{universal!r}; choose one"
    )
