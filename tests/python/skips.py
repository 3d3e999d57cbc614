"""With CNA_REQUIRE_ALL=1 a part that is not there fails instead of hiding its tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

# Packages that would choose their own torch, what only root can do, and what a processor cannot do.
# CUDA: CNA_REQUIRE_CUDA.
MAY_BE_MISSING = (
    "no torchao",
    "no bitsandbytes",
    "root may write everywhere",
    "no bfloat16 products in this processor",
)


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    of_cuda = "cuda" in getattr(report, "keywords", ())
    if not of_cuda and not reason.endswith(MAY_BE_MISSING):
        report.outcome = "failed"
        report.longrepr = f"CNA_REQUIRE_ALL=1, but this was skipped: {reason}"


def refuse_skips() -> Iterator[Any]:
    report = yield
    if os.environ.get("CNA_REQUIRE_ALL") == "1":
        refuse_skip(report)
    return report


pytest_runtest_makereport = pytest.hookimpl(refuse_skips, wrapper=True)
pytest_make_collect_report = pytest.hookimpl(refuse_skips, wrapper=True)
