"""Measure the production shapes, print the tables, and write them to RESULTS.md; with any option nothing is written."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from bench import soak
from bench.cost import Baseline, Deliveries
from bench.flow import RATE, burst_rate, latencies
from bench.production.report import (
    BURSTS,
    ITEMS,
    TURNS,
    VISIBILITY_TABLE,
    Measured,
    cpu_table,
    disk_table,
    speed_table,
)
from bench.production.stack import SHAPES, ProductionStack, Shape, StoreOptions, histories, production_stack
from bench.production.temporal import SHARDS, VERSION, built
from bench.results import console, keep, measured, show
from bench.stack import History
from bench.tables import Progress, Table
from everhook import event_loop

WARM_UP = 100

HEADING = "Production shape (`make bench-production`)"
ABOUT = (
    f"Temporal {VERSION} with {SHARDS} shards, two PostgreSQL servers (one is Temporal's; default settings, fsync on), "
    "API, worker, driver and receiver as separate processes, all on one machine."
)


async def measure(
    programs: Path, shape: Shape, history: History, options: StoreOptions, progress: Progress
) -> Measured:
    progress(f"{shape.title}, {history}: starting")
    async with production_stack(programs, shape, history, options) as stack:
        async with Baseline.started(stack) as baseline:
            await baseline.empty(WARM_UP)
            empty = await baseline.empty(ITEMS)
        progress(f"{shape.title}, {history}: cost of a delivery")
        deliveries = await Deliveries.prepared(stack)
        await deliveries.deliver(WARM_UP)
        before = await _written(stack)
        delivery = await deliveries.deliver(ITEMS)
        for _ in range(TURNS - 1):
            delivery += await deliveries.deliver(ITEMS)
        written = await _written(stack)
        progress(f"{shape.title}, {history}: publish to arrival")
        seconds = await latencies(stack, "latency", RATE)
        progress(f"{shape.title}, {history}: bursts")
        bursts = [(await burst_rate(stack, f"burst-{number}"))[0] for number in range(BURSTS)]
    kilobytes = {name: (size - before[name]) / delivery.items / 1000 for name, size in written.items()}
    return Measured(shape, history, empty, delivery, bursts, seconds, kilobytes)


async def _written(stack: ProductionStack) -> dict[str, int]:
    """Bytes so far: of WAL, by store, and of the visibility table."""
    wal = {store: await stack.wal_bytes(store) for store in stack.stores}
    return {**wal, VISIBILITY_TABLE: await stack.visibility_bytes()}


async def run(shapes: list[Shape], wanted: list[History], options: StoreOptions, progress: Progress) -> list[Table]:
    programs = await _programs(progress)
    found: list[Measured] = []

    async def measure_all(progress: Progress) -> Table:
        for shape in shapes:
            for history in wanted:
                found.append(await measure(programs, shape, history, options, progress))
        return cpu_table(found)

    return [await measured(measure_all, progress), speed_table(found), disk_table(found)]


async def run_soak(shape: Shape, history: History, options: StoreOptions, progress: Progress) -> list[Table]:
    programs = await _programs(progress)

    async def soaked(progress: Progress) -> Table:
        async with production_stack(programs, shape, history, options) as stack:
            return await soak.soak(stack, progress, f"{shape.title}, `{history}`")

    return [await measured(soaked, progress)]


async def _programs(progress: Progress) -> Path:
    progress(f"building Temporal {VERSION}, once: about 6 minutes of CPU")
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        return await built(Path(directory) / "build.log")


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"A shape: {', '.join(SHAPES)}. May be repeated.")] = None,
    history: Annotated[str | None, typer.Option(help="Only `all` or `exceptions`.")] = None,
    durable: Annotated[bool, typer.Option(help="PostgreSQL's synchronous_commit for Temporal's databases.")] = True,
    indexes: Annotated[bool, typer.Option(help="Keep all indexes of Temporal's visibility table.")] = True,
    soaked: Annotated[bool, typer.Option("--soak", help="Only the soak, of the first shape.")] = False,
) -> None:
    if unknown := sorted(set(only or []) - set(SHAPES)):
        raise typer.BadParameter(f"no such shape: {', '.join(unknown)}", param_hint="--only")
    if history not in (None, *histories()):
        raise typer.BadParameter(f"one of: {', '.join(histories())}", param_hint="--history")
    named = [SHAPES[name] for name in only or SHAPES]
    shapes = [shape for shape in named if shape.is_supported]
    for shape in named:
        if shape not in shapes:
            console.print(f"{shape.title}: this version of Everhook has no such option", style="yellow")
    wanted = [one for one in histories() if history in (None, one)]
    options = StoreOptions(durable, indexes)
    with console.status("bench-production", refresh_per_second=1) as status:
        progress: Callable[[str], None] = status.update
        benchmark = (
            run_soak(shapes[0], wanted[0], options, progress) if soaked else run(shapes, wanted, options, progress)
        )
        tables = event_loop.run(benchmark)
    for table in tables:
        show(table)
    if not (only or history or soaked) and options == StoreOptions():
        keep(HEADING, ABOUT, tables)


if __name__ == "__main__":
    typer.run(main)
