"""What `everhook status` and `everhook doctor` report: findings, each ok, worth attention, or wrong."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

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
    """`detail` says what was seen, `mend` what to do about it."""

    name: str
    level: Severity
    detail: str
    mend: str = ""


def ok(name: str, detail: str) -> Finding:
    return Finding(name, Severity.OK, detail)


def warning(name: str, detail: str, mend: str = "") -> Finding:
    return Finding(name, Severity.WARNING, detail, mend)


def wrong(name: str, detail: str, mend: str = "") -> Finding:
    return Finding(name, Severity.WRONG, detail, mend)


def skipped(name: str, why: str) -> Finding:
    return Finding(name, Severity.SKIPPED, why)


def draw(finding: Finding) -> RenderableType:
    mark, style = _MARKS[finding.level]
    head = Text.assemble((f"{mark} ", style), (f"{finding.name:<{NAME_WIDTH}}", "bold"), printable(finding.detail))
    if not finding.mend:
        return head
    return Group(head, Text(f"  {'':<{NAME_WIDTH}}→ {printable(finding.mend)}", style="cyan"))


def conclude(out: Output, findings: Sequence[Finding], **more: Any) -> None:
    """The last line, or the JSON document; exit status 1 where something is wrong."""
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
        rest = f", {warnings} to look at" if warnings else ""
        return Text(f"{wrong_ones} wrong{rest}.", style="bold red")
    if warnings:
        return Text(f"It works; {warnings} to look at.", style="yellow")
    return Text("All is well.", style="bold green")
