"""Which tests run in one process, one after the other, and which of these groups start first.

A group is a file, so that the servers that a module starts are started once; but the fault tests, which mostly wait,
are three groups, for each group of them starts two stacks of processes, and a package with one stack is one group.
"""

from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

FAULTS = {
    "mix": 1,
    "outages": 1,
    "rate_limits": 1,
    "removal": 1,
    "tasks": 1,
    "workers": 1,
    "consumers": 2,
    "dead_letters": 2,
    "neighbours": 2,
    "restored_backups": 2,
    "api": 3,
    "circuits": 3,
    "first_attempts": 3,
    "temporal_store_lost": 3,
}
"""The group of each file of fault tests: each group takes about as long as the others, and only the first needs the
stack with SQLite."""

PACKAGES = ("tests/api/live",)
"""Whose tests share a stack."""

LONGEST_FIRST = (
    "faults-1",
    "faults-2",
    "tests/e2e/test_dev.py",
    "faults-3",
    "tests/api/live",
    "tests/dashboard/test_browser.py",
    "tests/test_receiving.py",
    "tests/egress/test_room.py",
    "tests/workflows/test_delivery.py",
    "tests/workflows/test_endpoint.py",
    "tests/e2e/test_first_hour.py",
    "tests/e2e/test_monitoring.py",
    "tests/e2e/test_secrets.py",
    "tests/e2e/test_processes.py",
    "tests/stores/test_sealing.py",
    "tests/stores/test_recorder.py",
    "tests/stores/test_retention.py",
    "tests/cli/test_commands.py",
    "tests/cli/test_running.py",
    "tests/stores/test_partitions.py",
    "tests/stores/test_online_schema.py",
    "tests/e2e/test_tracing.py",
    "tests/dashboard/test_live.py",
    "tests/observability/test_tracing.py",
    "tests/e2e/test_serve.py",
    "tests/stores/test_migrate.py",
    "tests/stores/test_lifecycle_plans.py",
    "tests/dashboard/test_failing.py",
    "tests/dashboard/test_speed.py",
)
"""Groups that take 15 seconds and more; the others follow by their number of tests."""


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
    """As `--dist loadfile`, with the groups of this module.

    Every second process takes its groups from the end of the queue. So groups that mostly wait, at its beginning, run
    next to those that keep a core busy, at its end, from the first minute to the last.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if takes_from_the_end(node.gateway.id):
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def takes_from_the_end(process: str) -> bool:
    """For the name that xdist gives to a process: `gw0`, `gw1`, …"""
    return int(process.removeprefix("gw")) % 2 == 1


def group_of(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    package = file.rpartition("/")[0]
    if package in PACKAGES:
        return package
    name = file.removeprefix("tests/faults/test_").removesuffix(".py")
    return f"faults-{FAULTS[name]}" if name in FAULTS else file


def in_order(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The tests group by group, the longest groups first; within a group they keep their order."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)
    rank = {group: place for place, group in enumerate(LONGEST_FIRST)}
    names = sorted(groups, key=lambda name: (rank.get(name, len(rank)), -len(groups[name])))
    return [item for name in names for item in groups[name]]
