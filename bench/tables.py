"""What the measurements have in common: a table, and whether its targets were met."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Tell = Callable[[str], None]
"""Says to the person at the terminal what is being measured."""


@dataclass(frozen=True)
class Table:
    """What is printed, and kept in RESULTS.md. `notes` tell of targets, those missed included."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def target(what: str, value: float, met: bool, wanted: str) -> str:
    shown = f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2f}"
    return f"{what}: {shown} (target {wanted}: {'met' if met else 'MISSED'})"
