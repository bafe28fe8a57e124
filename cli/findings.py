"""Findings of `everhook status` and `everhook doctor`: each is ok, a warning, wrong, or skipped."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.formatting import counted
from cli.output import Output
from cli.terminal_text import printable

WRONG_STATUS = 1
NAME_WIDTH = 18


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


_MARKS = {
    Severity.OK: ("✓", "green"),
    Severity.WARNING: ("▲", "yellow"),
    Severity.WRONG: ("✗", "bold red"),
    Severity.SKIPPED: ("○", "dim"),
}


@dataclass(frozen=True)
class Finding:
    """`detail` says what was found, `fix` what to do about it."""

    name: str
    level: Severity
    detail: str
    fix: str = ""


def ok(name: str, detail: str) -> Finding:
    return Finding(name, Severity.OK, detail)


def warning(name: str, detail: str, fix: str = "") -> Finding:
    return Finding(name, Severity.WARNING, detail, fix)


def wrong(name: str, detail: str, fix: str = "") -> Finding:
    return Finding(name, Severity.WRONG, detail, fix)


def skipped(name: str, why: str) -> Finding:
    return Finding(name, Severity.SKIPPED, why)


def draw(finding: Finding) -> RenderableType:
    mark, style = _MARKS[finding.level]
    head = Text.assemble((f"{mark} ", style), (f"{finding.name:<{NAME_WIDTH}}", "bold"), printable(finding.detail))
    if not finding.fix:
        return head
    return Group(head, Text(f"  {'':<{NAME_WIDTH}}→ {printable(finding.fix)}", style="cyan"))


def conclude(out: Output, findings: Sequence[Finding], **more: Any) -> None:
    """Print the last line or the JSON document; exit with status 1 if something is wrong."""
    wrong_ones = [finding for finding in findings if finding.level is Severity.WRONG]
    warnings = [finding for finding in findings if finding.level is Severity.WARNING]
    if out.as_json:
        out.json({"ok": not wrong_ones, "findings": [asdict(finding) for finding in findings], **more})
    else:
        out.print(_sum(len(wrong_ones), len(warnings)))
    if wrong_ones:
        raise typer.Exit(WRONG_STATUS)


def _sum(wrong_ones: int, warnings: int) -> Text:
    if wrong_ones:
        rest = f", {counted(warnings, 'warning')}" if warnings else ""
        return Text(f"{wrong_ones} wrong{rest}.", style="bold red")
    if warnings:
        return Text(f"It works, with {counted(warnings, 'warning')}.", style="yellow")
    return Text("Everything is healthy.", style="bold green")
