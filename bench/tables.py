"""Shared by the benchmarks: tables, targets, and the format of figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Progress = Callable[[str], None]
"""Shows at the terminal what is being measured."""


@dataclass(frozen=True)
class Table:
    """A table for the terminal and RESULTS.md. `notes` list the targets, including missed ones."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def target(what: str, value: float, met: bool, wanted: str) -> str:
    """A note that compares a figure with its target. An infinite figure is one that was not reached in time."""
    return f"{what}: {_figure(value)} (target {wanted}: {'met' if met else 'MISSED'})"


def _figure(value: float) -> str:
    if math.isinf(value):
        return "not in time"
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2f}"


def milliseconds(seconds: float) -> str:
    """`0.0042` → `4.2 ms`; infinity (never arrived) → `not in time`."""
    if math.isinf(seconds):
        return "not in time"
    ms = 1000 * seconds
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def percentile(values: Sequence[float], share: float) -> float:
    """`percentile(latencies, 0.95)`; of no values it is not a number."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
