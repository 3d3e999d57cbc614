"""Progress bars for what takes over two seconds; CNA_PROGRESS=0 leaves them out everywhere."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from tqdm.auto import tqdm

_IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


@contextlib.contextmanager
def bar(
    title: str, show: bool, unit: str = "prompt"
) -> Iterator[Callable[[int, int], None] | None]:
    """A callback (done, total) that draws a bar after two seconds, or None if not wanted."""
    if not show or os.environ.get("CNA_PROGRESS") == "0":
        yield None
        return
    # None: only where a terminal shows it. A log would keep every state of the bar.
    quiet = False if _IN_NOTEBOOK else None
    with tqdm(
        desc=title, unit=unit, delay=2.0, leave=False, dynamic_ncols=True, disable=quiet
    ) as line:

        def update(done: int, total: int) -> None:
            line.total = total
            line.update(done - line.n)

        yield update
