"""The blocks of a module, by the names of what lies in them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def block_name(name: str) -> str:
    """Of the block that a module belongs to, the last numbered module above it; else of its owner."""
    block = re.match(r".*\.\d+(?=\.)", name)
    return block.group() if block else name.rpartition(".")[0]


def layer_numbers(names: Sequence[str], function: str = "live") -> list[int]:
    """The number of each module's block in the model; counted where no name has one.

    Args:
        names: of the down projections, in order; those of one block stand together.
    Raises:
        ValueError: blocks do not ascend.
    """
    blocks = [block_name(name) for name in names]
    order = list(dict.fromkeys(blocks))
    found = [re.search(r"\.(\d+)$", block) for block in order]
    if not all(found):
        return [order.index(block) for block in blocks]
    numbers = [int(match.group(1)) for match in found if match]
    for i in range(1, len(numbers)):
        if numbers[i] <= numbers[i - 1]:
            raise ValueError(
                f"{function}: expected one MLP in each block, in their order, got one in '{order[i]}' "
                f"behind '{order[i - 1]}'; pass a pattern that matches one of each block"
            )
    return [numbers[order.index(block)] for block in blocks]
