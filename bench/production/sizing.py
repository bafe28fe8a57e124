"""What one delivery costs in CPU, WAL, disk and memory, and how large the rows are: the figures of "Sizing" in
docs/deployment.md. `python -m bench.production.sizing` measures them and writes them to RESULTS.md."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import typer

from bench.cost import Cost, Deliveries
from bench.production.report import GROUPS
from bench.production.stack import SHAPES, STORE, TEMPORAL_STORE, ProductionStack, histories, production_stack
from bench.production.temporal import DATABASES, VERSION, built
from bench.results import console, keep, measured, show
from bench.stack import History
from bench.tables import Progress, Table
from everhook import event_loop

ITEMS, WARM_UP = 3_000, 500
SHAPE = SHAPES["together"]
TABLES = (
    "message", "delivery", "attempt", "endpoint_minute",
    "receipt", "receipt_hash", "receipt_seal", "audit_entry", "operational_event",
)  # fmt: skip
"""Those that grow with traffic."""

AUDIT_ENTRIES = 1_000
HEADING = "Sizing (`python -m bench.production.sizing`)"
ABOUT = (
    f"Temporal {VERSION}, two PostgreSQL servers (one is Temporal's), two `everhook serve --worker`, payloads of about "
    "420 bytes, one endpoint."
)

_ROW_SIZES = """
    SELECT c.reltuples::bigint AS rows, pg_table_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes
    FROM pg_class c WHERE c.oid = to_regclass($1)
"""


@dataclass(frozen=True)
class Sizes:
    """`wal` and `disk`: bytes for one delivery, by PostgreSQL server. `memory_mb`: private memory by group, after the
    deliveries. `rows`: bytes of a row and of its index entries, by table."""

    history: History
    cost: Cost
    wal: Mapping[str, float]
    disk: Mapping[str, float]
    memory_mb: Mapping[str, float]
    rows: Mapping[str, tuple[float, float]]


async def measure(programs: Path, history: History, progress: Progress) -> Sizes:
    progress(f"history {history}: starting")
    async with production_stack(programs, SHAPE, history) as stack:
        deliveries = await Deliveries.prepared(stack)
        await deliveries.deliver(WARM_UP)
        wal, disk = await _wal(stack), await _disk(stack)
        progress(f"history {history}: {ITEMS:,} deliveries")
        cost = await deliveries.deliver(ITEMS)
        await stack.drained()
        wal = {name: (size - wal[name]) / ITEMS for name, size in (await _wal(stack)).items()}
        disk = {name: (size - disk[name]) / ITEMS for name, size in (await _disk(stack)).items()}
        progress(f"history {history}: an entry of the audit trail")
        for number in range(AUDIT_ENTRIES):
            (await stack.client.post("/v1/channels", json={"name": f"audited-{number}"})).raise_for_status()
        return Sizes(history, cost, wal, disk, stack.meter.private_mb(), await _rows(stack))


async def _wal(stack: ProductionStack) -> dict[str, float]:
    return {store: float(await stack.wal_bytes(store)) for store in stack.stores}


async def _disk(stack: ProductionStack) -> dict[str, float]:
    """Bytes of the databases, by server."""
    urls = {
        STORE: [stack.stores[STORE].url],
        TEMPORAL_STORE: [stack.stores[TEMPORAL_STORE].url_of(name) for name in DATABASES],
    }
    found = {}
    for store, of in urls.items():
        sizes = []
        for url in of:
            connection = await asyncpg.connect(url, ssl=False)
            sizes.append(await connection.fetchval("SELECT pg_database_size(current_database())"))
            await connection.close()
        found[store] = float(sum(sizes))
    return found


async def _rows(stack: ProductionStack) -> dict[str, tuple[float, float]]:
    connection = await asyncpg.connect(stack.stores[STORE].url, ssl=False)
    try:
        await connection.execute("VACUUM FULL ANALYZE")
        found = {name: await connection.fetchrow(_ROW_SIZES, name) for name in TABLES}
    finally:
        await connection.close()
    return {name: (row["heap"] / row["rows"], row["indexes"] / row["rows"]) for name, row in found.items()
            if row is not None and row["rows"] >= 100}  # fmt: skip


def cost_table(found: list[Sizes]) -> Table:
    present = {group for one in found for group in one.cost.cpu.groups}
    groups = [group for group in GROUPS if group in present]
    stores = (TEMPORAL_STORE, STORE)
    return Table(
        f"What one delivery costs ({ITEMS:,} deliveries)",
        (
            "history", *(f"CPU ms, {group}" for group in groups), "CPU ms together",
            *(f"WAL KB, {store}" for store in stores), *(f"disk KB, {store}" for store in stores),
        ),
        [
            (
                f"`{one.history}`",
                *(f"{one.cost.ms(group):.2f}" for group in groups),
                f"{one.cost.total_ms:.1f}",
                *(f"{one.wal[store] / 1000:.1f}" for store in stores),
                *(f"{one.disk[store] / 1000:.1f}" for store in stores),
            )
            for one in found
        ],
        ["Disk is what the databases grow by, indexes included, before autovacuum and before any retention."],
    )  # fmt: skip


def memory_table(found: list[Sizes]) -> Table:
    groups = list(found[0].memory_mb)
    return Table(
        f"Private memory after {ITEMS + WARM_UP:,} deliveries, MB",
        ("history", *groups),
        [(f"`{one.history}`", *(f"{one.memory_mb[group]:.0f}" for group in groups)) for one in found],
    )


def rows_table(one: Sizes) -> Table:
    return Table(
        "Size of a row in PostgreSQL, bytes",
        ("table", "row", "index entries", "together"),
        [(f"`{name}`", f"{row:.0f}", f"{index:.0f}", f"{row + index:.0f}") for name, (row, index) in one.rows.items()],
        ["After `VACUUM FULL`: a table in use also has free space, up to a fifth with autovacuum's defaults."],
    )


async def run(progress: Progress) -> list[Table]:
    found: list[Sizes] = []
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        programs = await built(Path(directory) / "build.log")

    async def measure_all(progress: Progress) -> Table:
        for history in histories():
            found.append(await measure(programs, history, progress))
        return cost_table(found)

    return [await measured(measure_all, progress), memory_table(found), rows_table(found[-1])]


def main() -> None:
    with console.status("sizing", refresh_per_second=1) as status:
        tables = event_loop.run(run(status.update))
    for table in tables:
        show(table)
    keep(HEADING, ABOUT, tables)


if __name__ == "__main__":
    typer.run(main)
