"""Notes to people, through logging: to stderr as "cna: ..." until the application says otherwise.

logging.getLogger("cna").setLevel(logging.WARNING)     no notes
logging.getLogger("cna").handlers[:] = [mine]          somewhere else
"""

from __future__ import annotations

import logging
import sys


class _ToStderr(logging.Handler):
    """To whatever stderr is at that moment: notebooks and tests put others there."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"cna: {record.getMessage()}", file=sys.stderr)


LOG = logging.getLogger("cna")
if not LOG.handlers:
    LOG.addHandler(_ToStderr())
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def note(text: str) -> None:
    """Says something that is no result and no error."""
    LOG.info("%s", text)
