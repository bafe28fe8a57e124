"""Output of commands: tables for people or JSON for programs on standard output, everything else on standard error.

Text from the API is untrusted. It is printed without markup and control characters, and
as JSON in ASCII.
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
"""Terminal width from which tables show all their columns."""

WHOLE = ("delivery", "endpoint", "subscription", "task", "batch", "key", "status", "state", "response", "age")
"""Columns that are never wrapped, so that gids can be copied."""

PATIENCE_S = 1.0
"""Operations that take longer show a spinner."""


class Output:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=False)
        self.aside = _console(stderr=True)

    def show(self, document: Document, view: Callable[[Document], RenderableType]) -> None:
        """Print one document: as JSON, or as rendered by `view`."""
        if self.as_json:
            self.json(document)
        else:
            self.print(view(sanitized(document)))

    def show_text(self, text: str, view: Callable[[Any], RenderableType]) -> None:
        """Print a response that holds a payload: as JSON it keeps numbers and repeated keys unchanged."""
        if self.as_json:
            self.raw_json(text)
        else:
            self.show(parsed(text), view)

    def json(self, document: Any) -> None:
        """Print one line of JSON."""
        self.raw_json(json.dumps(document))

    def raw_json(self, text: str) -> None:
        """Print JSON as the API wrote it, escaped to ASCII."""
        sys.stdout.write("".join(char if " " <= char <= "~" else _escaped(char) for char in text) + "\n")
        sys.stdout.flush()

    def print(self, what: RenderableType) -> None:
        """Print for people only; nothing with --json."""
        if not self.as_json:
            self.console.print(lines(what, indent="") if isinstance(what, str) else what)

    def note(self, line: str, style: str = "dim") -> None:
        """Print a note on standard error."""
        self.aside.print(Text(printable(line), style=style))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Continue only after a confirmation. Raises UsageError if standard input is not a terminal."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageError(f"{question} Confirm with --yes: standard input is not a terminal.")
        if not typer.confirm(printable(question), err=True):
            raise CommandError("nothing was changed")

    @contextlib.contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """A spinner for something that takes longer. On a terminal only."""
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
        """A table with these columns; those in `wide` are left out on a narrow terminal."""
        return Rows([name for name in columns if self.console.width >= WIDE or name not in wide])


class Rows:
    """A table of untrusted texts."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self.table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        for name in columns:
            self.table.add_column(name, overflow="fold", no_wrap=name in WHOLE)

    def add(self, **cells: "str | Text") -> None:
        """Add a row, by column; cells of columns that are not shown are ignored."""
        self.table.add_row(*(_cell(cells.get(name.replace(" ", "_"), "")) for name in self._columns))


def sanitized(value: Document) -> Document:
    """The same document with every text made printable; line breaks are kept."""
    safe: Any = value
    if isinstance(value, str):
        safe = "\n".join(printable_lines(value))
    elif isinstance(value, dict):
        safe = {sanitized(name): sanitized(item) for name, item in value.items()}
    elif isinstance(value, list):
        safe = [sanitized(item) for item in value]
    return cast(Document, safe)


def pairs(rows: Sequence[tuple[str, "str | Text | None"]]) -> Table:
    """Names and values, one below the other. A value may have several lines. Empty values and None are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, value if isinstance(value, Text) else lines(value, indent=""))
    return table


def lines(text: str, indent: str = "  ", style: str = "") -> Text:
    """An untrusted text of several lines, indented."""
    return Text("\n".join(indent + line for line in printable_lines(text)), style=style)


def pretty_json(content: Any) -> str:
    """JSON for people."""
    return json.dumps(content, indent=2, ensure_ascii=False)


def _cell(value: "str | Text") -> Text:
    return value if isinstance(value, Text) else Text(printable(value))


def _console(*, stderr: bool) -> Console:
    """A console that cuts and wraps nothing unless it is a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 10_000
    return console


def _escaped(char: str) -> str:
    return char if char in "\n\t" else json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"
