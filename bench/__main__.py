"""Run the benchmarks, print their tables, and write them to RESULTS.md; with `--only NAME` nothing is written."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.status import Status

from bench import cost, dashboard, egress, flow, neighbours, ordering, pages, parked, pulling, receipts, replay, soak
from bench.results import console, keep, measured, show
from bench.tables import Progress, Table
from everhook import event_loop

# Each has a fresh stack, if it needs one, so that one does not slow down the next.
BENCHMARKS: dict[str, Callable[[Progress], Awaitable[Table]]] = {
    "cost": cost.cost,
    "burst": flow.burst,
    "latency": flow.latency,
    "outage": flow.outage,
    "noisy": neighbours.slow,
    "poison": neighbours.poison,
    "paused": neighbours.paused,
    "parked": parked.parked,
    "replay": replay.fresh,
    "pulled": pulling.pulled,
    "ordered": ordering.ordered,
    "receipts": receipts.receipts,
    "dashboard": dashboard.watched,
    "egress": egress.transport,
    "pages": pages.opened,
}
ON_REQUEST: dict[str, Callable[[Progress], Awaitable[Table]]] = {"soak": soak.embedded}
ALL = {**BENCHMARKS, **ON_REQUEST}

HEADING = "Results of `make bench`"
ABOUT = (
    "embedded stack (`everhook dev`), publisher and receiver on the same machine. "
    "Take ratios, not the figures: machines differ."
)


async def run(names: list[str]) -> list[Table]:
    tables = []
    for name in names:
        # The spinner costs CPU that the benchmark needs.
        with console.status(name, refresh_per_second=1) as status:
            tables.append(await measured(ALL[name], _progress_of(status, name)))
        show(tables[-1])
    return tables


def _progress_of(status: Status, name: str) -> Progress:
    return lambda text: status.update(f"{name}: {text}")


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"May be repeated: {', '.join(BENCHMARKS)}; and {', '.join(ON_REQUEST)}, not run otherwise."),
    ] = None,
) -> None:
    if unknown := sorted(set(only or []) - set(ALL)):
        raise typer.BadParameter(f"no such benchmark: {', '.join(unknown)}", param_hint="--only")
    tables = event_loop.run(run(only or list(BENCHMARKS)))
    if only is None:
        keep(HEADING, ABOUT, tables)


if __name__ == "__main__":
    typer.run(main)
