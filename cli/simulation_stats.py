"""The results of a simulation so far, and their display."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from cli.following import TERMINAL
from cli.formatting import counted
from cli.output import pairs
from cli.terminal_states import state
from cli.terminal_text import printable


@dataclass
class SimulationStats:
    """Counts and times. Latency is from the publish call to the arrival of the first request.

    Without `receives` the requests go to other receivers, and arrivals are unknown.
    """

    receives: bool = True
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    """When the last message was published."""
    published: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    published_at: dict[str, float] = field(default_factory=dict)
    arrived_at: dict[str, float] = field(default_factory=dict)
    requests: int = 0
    forged: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    """The status of each delivery."""

    @property
    def seconds(self) -> float:
        """Duration of the publishing."""
        return max((self.ended or time.monotonic()) - self.began, 0.001)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(self.statuses.values())

    @property
    def open(self) -> list[str]:
        return [gid for gid, status in self.statuses.items() if status not in TERMINAL]

    @property
    def all_delivered(self) -> bool:
        outcomes = self.outcomes
        return self.published > 0 and not self.refused and outcomes["delivered"] == outcomes.total() > 0

    @property
    def latencies_ms(self) -> list[float]:
        moments = ((self.published_at.get(gid), at) for gid, at in self.arrived_at.items())
        return sorted(max(0.0, at - began) * 1_000 for began, at in moments if began is not None)

    def document(self, *, ended: bool) -> dict[str, Any]:
        latencies = self.latencies_ms
        return {
            "ended": ended,
            "seconds": round(self.seconds, 1),
            "published": self.published,
            "refused": dict(self.refused),
            "requests": self.requests if self.receives else None,
            "messagesArrived": len(self.arrived_at) if self.receives else None,
            "forged": self.forged,
            "deliveries": dict(self.outcomes),
            "latencyMs": {name: _percentile(latencies, part) for name, part in _PERCENTILES.items()},
        }


_PERCENTILES = {"p50": 0.5, "p95": 0.95, "max": 1.0}


def picture(stats: SimulationStats) -> RenderableType:
    rows: list[tuple[str, str | Text | None]] = [
        ("published", f"{stats.published:,}  ({stats.published / stats.seconds:,.1f} a second)"),
        ("refused", _refused(stats)),
        (
            "arrived",
            f"{counted(len(stats.arrived_at), 'message')} in {counted(stats.requests, 'request')}"
            if stats.requests
            else None,
        ),
        ("forged", f"{counted(stats.forged, 'request')} without a valid signature" if stats.forged else None),
        ("latency", _latency(stats)),
    ]
    counts = stats.outcomes
    rows += [("deliveries" if n == 0 else "", _outcome(s, counts[s])) for n, s in enumerate(sorted(counts))]
    return pairs(rows)


def line(stats: SimulationStats) -> Text:
    outcomes = ", ".join(f"{count:,} {status}" for status, count in sorted(stats.outcomes.items()))
    latency = f"; {_latency(stats)}" if stats.arrived_at else ""
    arrived = f", {len(stats.arrived_at):,} arrived" if stats.receives else ""
    return Text(f"{stats.published:,} published{arrived}; {outcomes or 'none'}{latency}")


def _outcome(status: str, count: int) -> Text:
    return Text.assemble(f"{count:>6,}  ", state(status))


def _refused(stats: SimulationStats) -> Text | None:
    if not stats.refused:
        return None
    (why, count), *_ = stats.refused.most_common(1)
    total = stats.refused.total()
    return Text(f"{total:,}{f'; {count:,} of them' if count < total else ''}: {printable(why)}", style="red")


def _latency(stats: SimulationStats) -> str | None:
    """Percentiles from publish to arrival."""
    latencies = stats.latencies_ms
    if not latencies:
        return None
    return "  ".join(f"{name} {_percentile(latencies, part):,} ms" for name, part in _PERCENTILES.items())


def _percentile(ordered: Sequence[float], part: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
