"""Run all benchmarks, print their tables, and keep them in `bench/RESULTS.md`; `--only NAME` runs one, keeping none."""

import os
import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table as RichTable

from bench import dashboard, egress, pages, scenarios
from bench.stack import EmbeddedStack, embedded_stack
from bench.tables import Table, Tell
from everhook import eventloop

RESULTS = Path(__file__).with_name("RESULTS.md")

ON_A_STACK: dict[str, Callable[[EmbeddedStack, Tell], Awaitable[Table]]] = {
    "cost": scenarios.cost,
    "receipts": scenarios.receipts,
    "latency": scenarios.latency,
    "accept": scenarios.accept,
    "neighbours": scenarios.neighbours,
    "parked": scenarios.parked,
    "dashboard": dashboard.watched,
}
ALONE: dict[str, Callable[[Tell], Awaitable[Table]]] = {"egress": egress.transport, "pages": pages.opened}
NAMES = [*ON_A_STACK, *ALONE]

console = Console()


async def run(names: list[str]) -> list[Table]:
    tables = []
    for name in names:
        with console.status(name) as status:
            tables.append(await _measured(name, _teller(status, name)))
        _show(tables[-1])
    return tables


async def _measured(name: str, tell: Tell) -> Table:
    """Each on a fresh stack, if it needs one: what one leaves behind must not slow the next."""
    if name in ALONE:
        return await ALONE[name](tell)
    async with embedded_stack() as stack:
        return await ON_A_STACK[name](stack, tell)


def _teller(status: Status, name: str) -> Tell:
    return lambda text: status.update(f"{name}: {text}")


def _show(table: Table) -> None:
    shown = RichTable(*table.columns, title=table.title, title_justify="left")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    for note in table.notes:
        console.print(f"  {note}", style="yellow" if "MISSED" in note else "", highlight=False)


def _markdown(tables: list[Table]) -> str:
    memory = psutil.virtual_memory().total / 2**30
    lines = [
        "# Results of `make bench`",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}; "
        "embedded stack (`everhook dev`), publisher and receiver on the same machine. Take ratios, not the figures.",
    ]
    for table in tables:
        lines += ["", f"## {table.title}", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def main(only: Annotated[str | None, typer.Option(help=f"One of: {', '.join(NAMES)}.")] = None) -> None:
    tables = eventloop.run(run([only] if only else NAMES))
    if only is None:
        RESULTS.write_text(_markdown(tables))
        console.print(f"kept in {RESULTS.name}")


if __name__ == "__main__":
    typer.run(main)
