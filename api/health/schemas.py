"""Health as it is answered."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import Field

from api.endpoints.schemas import CircuitOut, status_of
from api.schemas import ApiModel
from everhook.contracts import DeadLetterReason
from everhook.endpoints.store import EndpointView
from everhook.health.backlog_store import COUNT_AT_MOST, Backlog, Waiting
from everhook.health.overview_store import WORST, Overview, ScoredEndpoint
from everhook.health.score import AttemptStats, Health, Level, Window
from everhook.health.store import Bucket, EndpointHealth, RecurringError


class LatencyBands(ApiModel):
    """How many answers took how long."""

    under_100_ms: int
    under_500_ms: int
    under_2000_ms: int
    slower: int


class TallyOut(ApiModel):
    """What attempts came to. `retried` failures allow of another try, `rejected` ones do not."""

    attempts: int
    delivered: int
    retried: int
    rejected: int
    success_rate: float | None = Field(description="Null where nothing was tried.")
    mean_ms: float | None = Field(description="Of answers; null where there were none.")
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


class BucketOut(TallyOut):
    since: datetime

    @classmethod
    def at(cls, bucket: Bucket) -> Self:
        return cls(since=bucket.since, **TallyOut.of(bucket.stats).model_dump())


class PartOut(ApiModel):
    name: Literal["success_1h", "success_24h", "latency_1h", "latency_24h", "circuit"]
    points: float
    out_of: float = Field(description="Less where there is little evidence, 0 where there is none.")
    why: str


class HealthOut(ApiModel):
    """`score` is what the parts earn of what they may earn, in percent."""

    score: int = Field(ge=0, le=100)
    level: Level
    parts: list[PartOut]

    @classmethod
    def of(cls, health: Health) -> Self:
        return cls(score=health.score, level=health.level, parts=[PartOut(**asdict(part)) for part in health.parts])


class FaultOut(ApiModel):
    """`since`: when it began, without a pause of more than a quarter of an hour since. Errors are counted by the
    minute: both moments are the beginnings of minutes."""

    error: str = Field(examples=["timeout_total", "http_503"])
    count: int
    endpoints: int = Field(description="To how many it happened.")
    since: datetime
    last_seen: datetime

    @classmethod
    def of(cls, fault: RecurringError) -> Self:
        return cls(
            error=fault.error, count=fault.count, endpoints=fault.endpoints, since=fault.since, last_seen=fault.last
        )


class EndpointHealthOut(HealthOut):
    endpoint_gid: str
    status: Literal["enabled", "paused", "disabled"]
    circuit: CircuitOut
    window: Window
    total: TallyOut = Field(description="Within the window.")
    errors: list[FaultOut] = Field(description="Within the window, the most frequent first.")
    bucket_seconds: int
    series: list[BucketOut] = Field(description="The window in steps, oldest first; the last is under way.")

    @classmethod
    def shown(cls, view: EndpointView, window: Window, found: EndpointHealth) -> Self:
        return cls(
            **HealthOut.of(found.health).model_dump(),
            endpoint_gid=view.endpoint.gid,
            status=status_of(view.circuit.hold),
            circuit=CircuitOut.model_validate(view.circuit, extra="ignore"),
            window=window,
            total=TallyOut.of(found.total),
            errors=[FaultOut.of(fault) for fault in found.faults],
            bucket_seconds=window.bucket // timedelta(seconds=1),
            series=[BucketOut.at(bucket) for bucket in found.series],
        )


class ScoredEndpointOut(HealthOut):
    endpoint_gid: str
    tenant: str
    url: str
    description: str
    status: Literal["enabled", "paused", "disabled"]
    circuit: CircuitOut
    last_hour: TallyOut

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
            last_hour=TallyOut.of(scored.hour),
        )


class CircuitCounts(ApiModel):
    """Endpoints by the state of their circuit; those that are held count as that instead."""

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
    at: datetime = Field(description="It is a few seconds old at most.")
    accepted_last_minute: int = Field(description="Deliveries.")
    last_hour: TallyOut
    series: list[BucketOut] = Field(description="The last hour, minute by minute.")
    endpoints: list[ScoredEndpointOut] = Field(description=f"Worst first, at most {WORST}; idle ones are left out.")
    errors: list[FaultOut] = Field(description="Of the last hour, the most frequent first.")
    circuits: CircuitCounts
    dead_letters: DeadLetterCounts
    undispatched: WaitingOut = Field(description="Accepted, and not known to have been started.")
    overdue: WaitingOut = Field(
        description="Their next step was due more than a minute ago, the start included: with no worker there, all."
    )
    parked: WaitingOut

    @classmethod
    def of(cls, overview: Overview, limit: int) -> Self:
        return cls(
            at=overview.at,
            accepted_last_minute=overview.accepted,
            last_hour=TallyOut.of(overview.hour),
            series=[BucketOut.at(bucket) for bucket in overview.series],
            endpoints=[ScoredEndpointOut.shown(scored) for scored in overview.worst[:limit]],
            errors=[FaultOut.of(fault) for fault in overview.faults],
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
