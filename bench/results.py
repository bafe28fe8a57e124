"""Tables at the terminal and in RESULTS.md."""

import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table as RichTable

from bench.meters import Others
from bench.tables import Progress, Table

RESULTS = Path(__file__).with_name("RESULTS.md")

console = Console()


async def measured(benchmark: Callable[[Progress], Awaitable[Table]], progress: Progress) -> Table:
    """Run a benchmark. Its table also says how busy other processes kept the machine."""
    async with Others() as others:
        table = await benchmark(progress)
    used = f"Other processes used {others.cores:.2f} of {os.cpu_count()} cores meanwhile."
    return replace(table, notes=[*table.notes, used])


def show(table: Table) -> None:
    shown = RichTable(*table.columns, title=table.title, title_justify="left")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    for note in table.notes:
        console.print(f"  {note}", style="yellow" if "MISSED" in note else "", highlight=False)


def keep(heading: str, about: str, tables: Sequence[Table]) -> None:
    """Replace the part of RESULTS.md under this first-level heading, or add it at the end; other parts stay."""
    parts = _parts(RESULTS.read_text()) if RESULTS.exists() else {}
    parts[heading] = "\n".join([f"{_machine()}; {about}", *(line for table in tables for line in _markdown(table))])
    RESULTS.write_text("\n".join(f"# {name}\n\n{text.strip()}\n" for name, text in parts.items()))
    console.print(f"kept in {RESULTS.name}")


def _parts(text: str) -> dict[str, str]:
    sections = ("\n" + text).split("\n# ")[1:]
    return {heading: rest for heading, _, rest in (section.partition("\n") for section in sections)}


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def _markdown(table: Table) -> list[str]:
    lines = ["", f"## {table.title}", "", f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return lines + (["", *(f"- {note}" for note in table.notes)] if table.notes else [])
