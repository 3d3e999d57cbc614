"""How tests are dealt to several workers (`make python-tests`): groups whole and first, then one by one.

A group keeps to one worker: its tests start processes, bind ports or build, or share a costly fixture.
pytest-xdist 3.8 has marks for that, which pytest 9.2 ignores (pytest-xdist issue 1386).
"""

from __future__ import annotations

from typing import Any

import pytest

# Longest first. Parts of node ids.
GROUPS = {
    "builds": ["docs/test_cpp_use.py", "docs/test_cpp_consumers.py"],
    "compiled packages": ["hosts/test_aoti.py", "hosts/test_threads.py", "[aoti", "[hosts.md]"],
    "processes": [
        "many/test_distributed.py",
        "hosts/test_live_parallel.py",
        "measure/test_kill.py",
        "test_blocks_of_two_processes_run",
        "test_ctrl_c_stops_a_long_run",
        "test_a_closed_pipe_ends_quietly",
    ],
    "reproduction": ["paper/test_reproduce.py"],
    "notebooks": ["docs/test_notebooks.py"],
    "demo": ["tests/demo/"],
}
RANKS = {group: rank for rank, group in enumerate(GROUPS)}


def group_of(nodeid: str) -> str:
    """The group of a test, or its own id."""
    for group, parts in GROUPS.items():
        if any(part in nodeid for part in parts):
            return group
    return nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: RANKS.get(group_of(item.nodeid), len(RANKS)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # the order is that of the items
    return Scheduler(config, log)
