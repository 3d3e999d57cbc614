"""The seconds of a search: no batch begins that would leave too few for the evaluation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

MARGIN = 1.25  # by which the evaluation may take longer than its answers say


class Budget:
    """Times the batches, which all take about as long, and tells whether there is time for more.

    Args:
        started: `time.monotonic` at the beginning; seconds: from there on, None for as many as it takes.
        evaluation: the evaluation's answers, as a share of a batch's.
    """

    def __init__(self, started: float, seconds: float | None, evaluation: float) -> None:
        self.until = float("inf") if seconds is None else started + seconds
        self.evaluation = evaluation
        self.longest = 0.0

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Around the work of one batch."""
        started = time.monotonic()
        yield
        self.longest = max(self.longest, time.monotonic() - started)

    def has_time_for(self, batches: int) -> bool:
        """Whether so many more, as slow as the slowest, and the evaluation would end in time."""
        wanted = self.longest * (batches + MARGIN * self.evaluation)
        return time.monotonic() + wanted <= self.until
