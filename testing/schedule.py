"""Which tests run in one process, one after the other, and in which order these groups start.

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

WAITING = (
    "faults-1",
    "faults-3",
    "tests/api/live",
    "faults-2",
    "tests/workflows/test_delivery.py",
    "tests/cli/test_running.py",
    "tests/workflows/test_endpoint.py",
    "tests/e2e/test_first_hour.py",
    "tests/test_receiving.py",
    "tests/e2e/test_tracing.py",
    "tests/e2e/test_monitoring.py",
    "tests/limits/test_connections.py",
    "tests/cli/test_commands.py",
    "tests/egress/test_proxy.py",
    "tests/api/test_streaming.py",
    "tests/e2e/test_serve.py",
    "tests/observability/test_tracing.py",
)
"""Groups that mostly wait, for 7 seconds and more: the longest first. They are the beginning of the queue."""

COMPUTING = (
    "tests/dashboard/test_browser.py",
    "tests/egress/test_room.py",
    "tests/e2e/test_dev.py",
    "tests/dashboard/test_pages.py",
    "tests/e2e/test_processes.py",
    "tests/workflows/test_replay.py",
    "tests/e2e/test_secrets.py",
    "tests/stores/test_partitions.py",
    "tests/stores/test_online_schema.py",
    "tests/stores/test_dashboard_plans.py",
    "tests/stores/test_retention.py",
    "tests/stores/test_tenant_erasure.py",
    "tests/stores/test_sealing.py",
    "tests/stores/test_migrate.py",
)
"""Groups that keep a core busy, for 7 seconds and more: the longest first. They are the end of the queue, and the
longest is the very end."""


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
    """The tests group by group: those that wait, those that compute from the end, and between them the others, large
    groups first. The tests of stores are the last of these, so that few processes start a PostgreSQL for them. Within a
    group the tests keep their order."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)

    def place(name: str) -> tuple[int, int]:
        if name in WAITING:
            return 0, WAITING.index(name)
        if name in COMPUTING:
            return 3, -COMPUTING.index(name)
        return (2, len(groups[name])) if name.startswith("tests/stores/") else (1, -len(groups[name]))

    return [item for name in sorted(groups, key=place) for item in groups[name]]
