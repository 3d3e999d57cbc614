"""The size of a circuit: a number of neurons, or a fraction of all."""

from __future__ import annotations

from ..base.checks import is_whole


def circuit_size(
    shape: tuple[int, int] | int,
    fraction: float = 0.001,
    k: int | None = None,
    *,
    excluded: int = 0,
    function: str = "discover",
) -> int:
    """`k`, or max(1, round(fraction * neurons)) where it is None.

    Args:
        shape: (n_layers, width), or the number of neurons where layers differ in width.
        excluded: neurons that no circuit may take.
        function: whose arguments these are, for messages.
    Raises:
        ValueError: a fraction outside (0, 1], or more neurons than there are.
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            f"{function}: expected a fraction above 0 and up to 1, got {fraction}; 0.001 is the "
            "paper's"
        )
    neurons = shape if isinstance(shape, int) else shape[0] * shape[1]
    size = max(1, round(fraction * neurons)) if k is None else k
    if not is_whole(size) or not 1 <= size <= neurons - excluded:
        raise ValueError(
            f"{function}: expected k between 1 and {neurons - excluded} neurons, got {size}; choose "
            "another k"
        )
    return int(size)
