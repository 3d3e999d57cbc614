"""Which distribution gave this package: the index has another project of the same import name."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "cna-neurons"


def other_cna() -> str | None:
    """The version of another project's distribution `cna`, None where it is not installed.

    It writes into the same folder `cna`: whichever was installed last has replaced files of the other.
    """
    try:
        found = metadata.distribution("cna")
    except metadata.PackageNotFoundError:
        return None
    if "neurons" in (found.metadata["Summary"] or ""):  # this project, before it had its own name
        return None
    return found.version
