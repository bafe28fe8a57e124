"""The measurements of the production shapes, and their tables."""

from dataclasses import dataclass
from statistics import median

from bench.cost import CLIENT, Cost
from bench.flow import BURST, RATE, RATE_S
from bench.production.stack import API, BOTH, SHAPES, STORE, TEMPORAL_STORE, WORKER, Shape
from bench.stack import TEMPORAL, History
from bench.tables import Table, milliseconds, percentile, target

TURNS, ITEMS, BURSTS = 2, 500, 2
GROUPS = (TEMPORAL, TEMPORAL_STORE, STORE, API, BOTH, WORKER)
VISIBILITY_TABLE = "visibility table"
MOST_MS: dict[History, float] = {"all": 14.0, "exceptions": 4.5}
LEAST_RATE = 600
"""Deliveries a second of a burst, with `--processes 2` and history `exceptions`."""


@dataclass(frozen=True)
class Measured:
    """One shape with one kind of history. `kilobytes`: written for a delivery, as WAL by store, and what
    the visibility table grows by."""

    shape: Shape
    history: History
    empty: Cost
    delivery: Cost
    bursts: list[float]
    latencies: list[float]
    kilobytes: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.shape.title}, `{self.history}`"


def cpu_table(found: list[Measured]) -> Table:
    """CPU milliseconds a delivery by group of processes."""
    present = {group for one in found for group in one.delivery.cpu.groups}
    groups = [group for group in GROUPS if group in present]
    rows = [_cpu_row("an empty workflow, eager, and its client", found[0].empty, groups)]
    rows += [_cpu_row(one.name, one.delivery, groups) for one in found]
    bench_ms = median(one.delivery.bench_ms for one in found)
    return Table(
        f"CPU ms a delivery ({TURNS} turns of {ITEMS}, 20 at a time)",
        ("shape, history", *groups, "together"),
        rows,
        [
            *(
                target(f"CPU ms a delivery, {one.name}", one.delivery.total_ms,
                       one.delivery.total_ms <= MOST_MS[one.history], f"at most {MOST_MS[one.history]:.1f}")
                for one in found
            ),
            f"Without what the idle stack uses. Not counted: {bench_ms:.2f} ms a delivery for driver and receiver.",
        ],
    )  # fmt: skip


def _cpu_row(name: str, cost: Cost, groups: list[str]) -> tuple[str, ...]:
    """The client of an empty workflow is shown in the last column, that of workers."""
    shown = {groups[-1]: cost.cpu.groups.get(CLIENT), **cost.cpu.groups}
    seconds = (shown.get(group) for group in groups)
    cells = ("" if one is None else f"{1000 * one / cost.items:.1f}" for one in seconds)
    return (name, *cells, f"{cost.total_ms:.1f}")


def speed_table(found: list[Measured]) -> Table:
    return Table(
        f"Bursts of {BURST:,} to one endpoint; publish to arrival at {RATE}/s for {RATE_S} s",
        ("shape, history", "deliveries/s", "each of the bursts", "publish to arrival, p50", "p95"),
        [
            (
                one.name,
                f"{median(one.bursts):.0f}",
                ", ".join(f"{rate:.0f}" for rate in one.bursts),
                *(milliseconds(percentile(one.latencies, share)) for share in (0.5, 0.95)),
            )
            for one in found
        ],
        [
            target(f"deliveries/s, {one.name}", rate, rate >= LEAST_RATE, f"at least {LEAST_RATE}")
            for one in found
            if one.shape is SHAPES["processes"] and one.history == "exceptions"
            for rate in (median(one.bursts),)
        ],
    )


def disk_table(found: list[Measured]) -> Table:
    return Table(
        "Written to disk, KB a delivery",
        ("shape, history", "WAL of Temporal", "WAL of Everhook", "visibility table with indexes"),
        [
            (one.name, *(f"{one.kilobytes[name]:.1f}" for name in (TEMPORAL_STORE, STORE, VISIBILITY_TABLE)))
            for one in found
        ],
    )
