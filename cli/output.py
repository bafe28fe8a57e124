"""What commands print: tables for people, JSON for programs, and what is neither on standard error.

What comes from the API may be strangers' text. It is printed without markup and without what a terminal would obey,
and as JSON in ASCII.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cli.api_client.client import parsed
from cli.errors import CommandError, UsageError
from cli.terminal_text import printable, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress

Document = TypeVar("Document")

WIDE = 110
"""From so many columns on, tables show all that they have."""

WHOLE = ("delivery", "endpoint", "subscription", "status", "state", "answer", "age")
"""Columns that are never broken: gids are there to be copied."""

PATIENCE_S = 1.0
"""What takes longer shows that it is under way."""


class Output:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=False)
        self.aside = _console(stderr=True)

    def show(self, document: Document, view: Callable[[Document], RenderableType]) -> None:
        """One document: as JSON, or as `view` draws it."""
        if self.as_json:
            self.json(document)
        else:
            self.print(view(harmless(document)))

    def show_text(self, text: str, view: Callable[[Any], RenderableType]) -> None:
        """An answer that holds a payload: as JSON it keeps the very numbers and the repeated keys."""
        if self.as_json:
            self.raw_json(text)
        else:
            self.show(parsed(text), view)

    def json(self, document: Any) -> None:
        """One line of JSON."""
        self.raw_json(json.dumps(document))

    def raw_json(self, text: str) -> None:
        """JSON as the API wrote it, in ASCII."""
        sys.stdout.write("".join(char if " " <= char <= "~" else _escaped(char) for char in text) + "\n")
        sys.stdout.flush()

    def print(self, what: RenderableType) -> None:
        """For people only."""
        if not self.as_json:
            self.console.print(lines(what, indent="") if isinstance(what, str) else what)

    def note(self, line: str, style: str = "dim") -> None:
        """An aside, on standard error."""
        self.aside.print(Text(printable(line), style=style))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the person says so. Nobody is asked where nobody is there."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageError(f"{question} Say so with --yes: there is nobody to ask.")
        if not typer.confirm(printable(question), err=True):
            raise CommandError("nothing was changed")

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """A sign of life, once something takes its time. On a terminal only."""
        if not self.aside.is_terminal:
            yield
            return
        status = self.aside.status(Text(printable(doing)))
        timer = threading.Timer(PATIENCE_S, status.start)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            status.stop()

    def progress(self) -> "Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.aside, transient=False, disable=not self.aside.is_terminal)

    def table(self, *columns: str, wide: Sequence[str] = ()) -> "Rows":
        """A table with these columns; those in `wide` are left out where the terminal is narrow."""
        return Rows([name for name in columns if self.console.width >= WIDE or name not in wide])


class Rows:
    """A table of texts from anywhere."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self.table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        for name in columns:
            self.table.add_column(name, overflow="fold", no_wrap=name in WHOLE)

    def add(self, **cells: "str | Text") -> None:
        """A row, by column; what is not shown may be given all the same."""
        self.table.add_row(*(_cell(cells.get(name.replace(" ", "_"), "")) for name in self._columns))


def harmless(value: Document) -> Document:
    """The same with every text in it made fit to be printed, its line breaks kept."""
    made: Any = value
    if isinstance(value, str):
        made = "\n".join(printable_lines(value))
    elif isinstance(value, dict):
        made = {harmless(name): harmless(item) for name, item in value.items()}
    elif isinstance(value, list):
        made = [harmless(item) for item in value]
    return cast(Document, made)


def pairs(rows: Sequence[tuple[str, "str | Text | None"]]) -> Table:
    """Names and values, one a line. What is None or empty is left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, _cell(value))
    return table


def lines(text: str, indent: str = "  ", style: str = "") -> Text:
    """A text of several lines from a stranger, indented."""
    return Text("\n".join(indent + line for line in printable_lines(text)), style=style)


def pretty_json(content: Any) -> str:
    """JSON for people."""
    return json.dumps(content, indent=2, ensure_ascii=False)


def _cell(value: "str | Text") -> Text:
    return value if isinstance(value, Text) else Text(printable(value))


def _console(*, stderr: bool) -> Console:
    """Where nobody looks at a terminal nothing is cut or wrapped."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000
    return console


def _escaped(char: str) -> str:
    return char if char in "\n\t" else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"
