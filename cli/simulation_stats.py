"""What a simulation has seen so far, and how it looks."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from cli.following import AT_REST
from cli.output import pairs
from cli.terminal_states import state
from cli.terminal_text import printable


@dataclass
class SimulationStats:
    """What has happened so far. Latency is from the call of publish to the arrival of the first request.

    Without `receives` the requests go to receivers of others, and nothing is known of arrivals.
    """

    receives: bool = True
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    """When the last was published."""
    published: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    published_at: dict[str, float] = field(default_factory=dict)
    arrived_at: dict[str, float] = field(default_factory=dict)
    requests: int = 0
    forged: int = 0
    statuses: dict[str, str] = field(default_factory=dict)
    """Of each delivery."""

    @property
    def seconds(self) -> float:
        """How long was published for."""
        return max((self.ended or time.monotonic()) - self.began, 0.001)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(self.statuses.values())

    @property
    def open(self) -> list[str]:
        return [gid for gid, status in self.statuses.items() if status not in AT_REST]

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


def picture(tally: SimulationStats) -> RenderableType:
    rows: list[tuple[str, str | Text | None]] = [
        ("published", f"{tally.published:,}  ({tally.published / tally.seconds:,.1f} a second)"),
        ("refused", _refused(tally)),
        ("arrived", f"{len(tally.arrived_at):,} messages in {tally.requests:,} requests" if tally.requests else None),
        ("forged", f"{tally.forged:,} requests were not signed as they should be" if tally.forged else None),
        ("latency", _latency(tally)),
    ]
    counts = tally.outcomes
    rows += [("deliveries" if n == 0 else "", _outcome(s, counts[s])) for n, s in enumerate(sorted(counts))]
    return pairs(rows)


def line(tally: SimulationStats) -> Text:
    outcomes = ", ".join(f"{count:,} {status}" for status, count in sorted(tally.outcomes.items()))
    latency = f"; {_latency(tally)}" if tally.arrived_at else ""
    arrived = f", {len(tally.arrived_at):,} arrived" if tally.receives else ""
    return Text(f"{tally.published:,} published{arrived}; {outcomes or 'none'}{latency}")


def _outcome(status: str, count: int) -> Text:
    return Text.assemble(f"{count:>6,}  ", state(status))


def _refused(tally: SimulationStats) -> Text | None:
    if not tally.refused:
        return None
    (why, count), *_ = tally.refused.most_common(1)
    return Text(f"{tally.refused.total():,}; {count:,} times: {printable(why)}", style="red")


def _latency(tally: SimulationStats) -> str | None:
    """From publish to arrival."""
    latencies = tally.latencies_ms
    if not latencies:
        return None
    return "  ".join(f"{name} {_percentile(latencies, part):,} ms" for name, part in _PERCENTILES.items())


def _percentile(ordered: Sequence[float], part: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
