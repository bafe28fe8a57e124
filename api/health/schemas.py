"""Health as responses show it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from pydantic import ConfigDict, Field

from api.endpoints.schemas import CIRCUIT, ENDPOINT, CircuitOut, EndpointStatus, status_of
from api.schemas import ApiModel
from everhook.contracts import DeadLetterReason
from everhook.health.backlog_store import COUNT_AT_MOST, Backlog, Waiting
from everhook.health.endpoint_alerts import AlertName, RaisedAlert
from everhook.health.overview_store import WORST, Overview, ScoredEndpoint
from everhook.health.score import AttemptStats, Health, Level, Window
from everhook.health.service import ScoredView
from everhook.health.store import Bucket, RecurringError

_STATS: dict[str, Any] = {
    "attempts": 2400,
    "delivered": 2328,
    "retried": 70,
    "rejected": 2,
    "successRate": 0.97,
    "meanMs": 180.2,
    "latency": {"under100Ms": 611, "under500Ms": 1702, "under2000Ms": 60, "slower": 27},
}
_SCORE: dict[str, Any] = {
    "score": 88,
    "level": "degraded",
    "parts": [
        {
            "name": "success_1h",
            "points": 32.3,
            "outOf": 40,
            "reason": "90 of 100 attempts delivered in the last hour",
        }
    ],
}
_ERROR: dict[str, Any] = {
    "error": "http_503",
    "count": 70,
    "endpoints": 1,
    "since": "2026-01-31T11:20:00Z",
    "lastSeen": "2026-01-31T11:59:00Z",
}
_BUCKET: dict[str, Any] = {"since": "2026-01-31T11:45:00Z", **_STATS}
_ALERT: dict[str, Any] = {
    "alert": "success_rate",
    "since": "2026-01-31T11:45:00Z",
    "value": 0.82,
    "threshold": 0.9,
}
_ENDPOINT: dict[str, Any] = {
    "endpointGid": ENDPOINT["endpointGid"],
    "status": "enabled",
    "circuit": CIRCUIT,
    "alerts": [_ALERT],
    **_SCORE,
}
_WAITING: dict[str, Any] = {"count": 3, "oldestAcceptedAt": "2026-01-31T11:59:58Z"}


class LatencyBands(ApiModel):
    """How many responses took how long."""

    under_100_ms: int
    under_500_ms: int
    under_2000_ms: int
    slower: int


class AttemptStatsOut(ApiModel):
    """Attempts by their outcome. After a `retried` failure another attempt follows, after a `rejected` one none."""

    attempts: int
    delivered: int
    retried: int
    rejected: int
    success_rate: float | None = Field(description="Null without attempts.")
    mean_ms: float | None = Field(description="Mean response time; null without responses.")
    latency: LatencyBands

    @classmethod
    def of(cls, stats: AttemptStats) -> Self:
        return cls(
            attempts=stats.attempts,
            delivered=stats.delivered,
            retried=stats.retried,
            rejected=stats.rejected,
            success_rate=stats.success_rate,
            mean_ms=stats.mean_ms,
            latency=LatencyBands(
                under_100_ms=stats.under_100,
                under_500_ms=stats.under_500,
                under_2000_ms=stats.under_2000,
                slower=stats.slower,
            ),
        )


class BucketOut(AttemptStatsOut):
    since: datetime

    @classmethod
    def at(cls, bucket: Bucket) -> Self:
        return cls(since=bucket.since, **AttemptStatsOut.of(bucket.stats).model_dump())


class ScoreComponentName(StrEnum):
    """What a part of the score measures, and over which time."""

    SUCCESS_1H = "success_1h"
    SUCCESS_24H = "success_24h"
    LATENCY_1H = "latency_1h"
    LATENCY_24H = "latency_24h"
    CIRCUIT = "circuit"


class ScoreComponentOut(ApiModel):
    """A part of the score."""

    name: ScoreComponentName
    points: float
    out_of: float = Field(description="Less with little evidence, 0 with none.")
    reason: str = Field(description="For people.")


class HealthOut(ApiModel):
    """`score` is the sum of the points of all parts, in percent of what they could earn."""

    score: int = Field(ge=0, le=100)
    level: Level
    parts: list[ScoreComponentOut]

    @classmethod
    def of(cls, health: Health) -> Self:
        return cls(
            score=health.score,
            level=health.level,
            parts=[ScoreComponentOut.model_validate(part) for part in health.parts],
        )


class RecurringErrorOut(ApiModel):
    """`since`: when the error began to recur without a pause of more than 15 minutes. Errors are counted by the minute:
    both times are starts of minutes."""

    error: str = Field(examples=["timeout_total", "http_503"])
    count: int
    endpoints: int = Field(description="How many endpoints had it.")
    since: datetime
    last_seen: datetime

    @classmethod
    def of(cls, fault: RecurringError) -> Self:
        return cls(
            error=fault.error, count=fault.count, endpoints=fault.endpoints, since=fault.since, last_seen=fault.last
        )


class RaisedAlertOut(ApiModel):
    """An alert of an endpoint that is raised now."""

    alert: AlertName
    since: datetime
    value: float = Field(description="When it was raised: a fraction, a number, or milliseconds.")
    threshold: float


def alerts_out(raised: Mapping[AlertName, RaisedAlert]) -> list[RaisedAlertOut]:
    return [
        RaisedAlertOut(alert=name, since=alert.since, value=alert.value, threshold=alert.threshold)
        for name, alert in raised.items()
    ]


class EndpointHealthOut(HealthOut):
    """The health of an endpoint now, and its attempts within a window."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_ENDPOINT,
                    "window": "24h",
                    "total": _STATS,
                    "errors": [_ERROR],
                    "bucketSeconds": 900,
                    "series": [_BUCKET],
                }
            ]
        }
    )

    endpoint_gid: str
    status: EndpointStatus
    circuit: CircuitOut
    alerts: list[RaisedAlertOut]
    window: Window
    total: AttemptStatsOut = Field(description="Within the window.")
    errors: list[RecurringErrorOut] = Field(description="Within the window, the most frequent first.")
    bucket_seconds: int
    series: list[BucketOut] = Field(description="The window in steps, oldest first; the last step is not over.")

    @classmethod
    def shown(cls, scored: ScoredView, window: Window) -> Self:
        view, found = scored.view, scored.health
        return cls(
            **HealthOut.of(found.health).model_dump(),
            endpoint_gid=view.endpoint.gid,
            status=status_of(view.circuit.hold),
            circuit=CircuitOut.model_validate(view.circuit, extra="ignore"),
            alerts=alerts_out(scored.alerts),
            window=window,
            total=AttemptStatsOut.of(found.total),
            errors=[RecurringErrorOut.of(fault) for fault in found.faults],
            bucket_seconds=window.bucket // timedelta(seconds=1),
            series=[BucketOut.at(bucket) for bucket in found.series],
        )


class ScoredEndpointOut(HealthOut):
    endpoint_gid: str
    tenant: str
    url: str
    description: str
    status: EndpointStatus
    circuit: CircuitOut
    alerts: list[RaisedAlertOut]
    last_hour: AttemptStatsOut

    @classmethod
    def shown(cls, scored: ScoredEndpoint) -> Self:
        return cls(
            **HealthOut.of(scored.health).model_dump(),
            endpoint_gid=scored.endpoint.gid,
            tenant=scored.tenant,
            url=scored.endpoint.url,
            description=scored.endpoint.description,
            status=status_of(scored.circuit.hold),
            circuit=CircuitOut.model_validate(scored.circuit, extra="ignore"),
            alerts=alerts_out(scored.alerts),
            last_hour=AttemptStatsOut.of(scored.hour),
        )


class CircuitCounts(ApiModel):
    """Endpoints by the state of their circuit. One that is paused or disabled counts only as that."""

    closed: int = 0
    open: int = 0
    half_open: int = 0
    paused: int = 0
    disabled: int = 0


class WaitingOut(ApiModel):
    count: int = Field(description=f"Counted up to {COUNT_AT_MOST}.")
    oldest_accepted_at: datetime | None

    @classmethod
    def of(cls, waiting: Waiting) -> Self:
        return cls(count=waiting.count, oldest_accepted_at=waiting.oldest)


class DeadLetterCounts(ApiModel):
    total: int = Field(description=f"Counted up to {COUNT_AT_MOST}.")
    by_reason: dict[DeadLetterReason, int]


class OverviewOut(ApiModel):
    """The health of many endpoints at a glance."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "at": "2026-01-31T12:00:00Z",
                    "acceptedLastMinute": 120,
                    "lastHour": _STATS,
                    "series": [_BUCKET],
                    "endpoints": [
                        {
                            **_ENDPOINT,
                            "tenant": ENDPOINT["tenant"],
                            "url": ENDPOINT["url"],
                            "description": ENDPOINT["description"],
                            "lastHour": _STATS,
                        }
                    ],
                    "errors": [_ERROR],
                    "circuits": {"closed": 40, "open": 1, "halfOpen": 0, "paused": 1, "disabled": 0},
                    "deadLetters": {"total": 2, "byReason": {"exhausted": 2}},
                    "undispatched": _WAITING,
                    "overdue": {"count": 0},
                    "parked": _WAITING,
                }
            ]
        }
    )

    at: datetime = Field(description="When it was computed: a few seconds ago at most.")
    accepted_last_minute: int = Field(description="Deliveries.")
    last_hour: AttemptStatsOut
    series: list[BucketOut] = Field(description="The last hour, minute by minute.")
    endpoints: list[ScoredEndpointOut] = Field(description=f"Worst first, at most {WORST}; idle ones are omitted.")
    errors: list[RecurringErrorOut] = Field(description="Of the last hour, the most frequent first.")
    circuits: CircuitCounts
    dead_letters: DeadLetterCounts
    undispatched: WaitingOut = Field(description="Accepted, and not yet known to be started.")
    overdue: WaitingOut = Field(
        description=(
            "Their start or next step was due more than a minute ago. If no worker runs, every retry becomes overdue."
        )
    )
    parked: WaitingOut

    @classmethod
    def of(cls, overview: Overview, limit: int) -> Self:
        return cls(
            at=overview.at,
            accepted_last_minute=overview.accepted,
            last_hour=AttemptStatsOut.of(overview.hour),
            series=[BucketOut.at(bucket) for bucket in overview.series],
            endpoints=[ScoredEndpointOut.shown(scored) for scored in overview.worst[:limit]],
            errors=[RecurringErrorOut.of(fault) for fault in overview.faults],
            **_backlog(overview.backlog),
        )


def _backlog(backlog: Backlog) -> dict[str, ApiModel]:
    return {
        "circuits": CircuitCounts(**backlog.circuits),
        "dead_letters": DeadLetterCounts(total=backlog.dead_letter_count, by_reason=dict(backlog.dead_letters)),
        "undispatched": WaitingOut.of(backlog.undispatched),
        "overdue": WaitingOut.of(backlog.overdue),
        "parked": WaitingOut.of(backlog.parked),
    }
