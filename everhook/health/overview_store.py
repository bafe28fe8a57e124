"""The overview of a tenant or of all tenants: everything that the first page shows."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from async_lru import alru_cache
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.circuit.store import HELD_OR_NOT_CLOSED
from everhook.health.backlog_store import COUNT_AT_MOST, Backlog, backlog
from everhook.health.endpoint_alerts import AlertName, RaisedAlert
from everhook.health.endpoint_alerts_store import raised_alerts
from everhook.health.score import DAY, HOUR, AttemptStats, ErrorInterval, Health, Window, score_endpoint
from everhook.health.store import Bucket, RecurringError, error_intervals, faults, series, stats_by_endpoint
from everhook.ids import Kind, first_gid_at
from everhook.storage.engine import Database
from everhook.storage.tables import CircuitRow, Delivery, Endpoint, EndpointMinute, EndpointMinuteError, Tenant, now

CACHED_S = 5.0
PAST_CACHED_S = 60.0
"""The last day is summed up only once a minute. Newer minutes are added to it; older ones leave it a minute late."""

CACHED_TENANTS = 100

WORST = 100
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class ScoredEndpoint:
    endpoint: Endpoint
    circuit: CircuitRow
    tenant: str
    health: Health
    hour: AttemptStats
    alerts: Mapping[AlertName, RaisedAlert]


@dataclass(frozen=True)
class Overview:
    """The state at `at`. `accepted` counts the deliveries accepted within the minute before it. `worst` are the
    endpoints with the lowest scores, the lowest first, at most `WORST`."""

    at: datetime
    accepted: int
    series: Sequence[Bucket]
    worst: Sequence[ScoredEndpoint]
    faults: Sequence[RecurringError]
    backlog: Backlog

    @property
    def hour(self) -> AttemptStats:
        return AttemptStats.total(bucket.stats for bucket in self.series)


@dataclass(frozen=True)
class _Past:
    """The last day: statistics up to `until`, an hour before they were loaded."""

    until: datetime
    stats_by_endpoint: Mapping[str, AttemptStats]
    intervals: Mapping[str, Sequence[ErrorInterval]]


class HealthBoard:
    """Overviews by tenant, cached for a few seconds and loaded once for concurrent callers (single flight).

    The queries use the reading connections, so that they never wait for, or delay, the writer of the hot path.
    """

    def __init__(self, database: Database, *, cached_seconds: float = CACHED_S) -> None:
        self._database = database
        self._overviews = alru_cache(maxsize=CACHED_TENANTS, ttl=cached_seconds)(self._load)
        self._pasts = alru_cache(maxsize=CACHED_TENANTS, ttl=PAST_CACHED_S)(self._load_past)

    async def overview(self, tenant_gid: str | None) -> Overview:
        """The overview of one tenant; None: of all."""
        return await self._overviews(tenant_gid)

    async def _load_past(self, tenant_gid: str | None) -> _Past:
        moment = now()
        since, until = moment - DAY, moment - HOUR
        older = [col(EndpointMinute.minute) < until, *_minutes_of(tenant_gid)]
        async with self._database.reading() as session:
            return _Past(
                until=until,
                stats_by_endpoint=await stats_by_endpoint(session, since, older),
                intervals=await error_intervals(session, since, Window.DAY.bucket, _errors_of(tenant_gid)),
            )

    async def _load(self, tenant_gid: str | None) -> Overview:
        past = await self._pasts(tenant_gid)
        moment = now()
        async with self._database.reading() as session:
            hour = await stats_by_endpoint(session, moment - HOUR, _minutes_of(tenant_gid))
            since_then = await stats_by_endpoint(session, past.until, _minutes_of(tenant_gid))
            troubled = await troubled_circuits(session, tenant_gid)
            deleted = await _deleted_since(session, moment - DAY)
            # There may be many endpoints: 20,000 take half a second, which would block the event loop.
            scores = await asyncio.to_thread(_scores, hour, past.stats_by_endpoint, since_then, troubled, deleted)
            return Overview(
                at=moment,
                accepted=await _accepted(session, moment - MINUTE, tenant_gid),
                series=await series(session, Window.HOUR, moment, _minutes_of(tenant_gid)),
                worst=await _worst(session, scores, hour),
                faults=faults(
                    await error_intervals(session, moment - HOUR, Window.HOUR.bucket, _errors_of(tenant_gid)),
                    await _endpoints_by_error(session, moment - HOUR, tenant_gid),
                    past.intervals,
                ),
                backlog=await backlog(session, tenant_gid),
            )


def _added(one: Mapping[str, AttemptStats], other: Mapping[str, AttemptStats]) -> Mapping[str, AttemptStats]:
    return {gid: AttemptStats.total(each[gid] for each in (one, other) if gid in each) for gid in {*one, *other}}


def _scores(
    hour: Mapping[str, AttemptStats],
    past: Mapping[str, AttemptStats],
    since_then: Mapping[str, AttemptStats],
    troubled: Mapping[str, CircuitRow],
    deleted: Collection[str],
) -> Mapping[str, Health]:
    """The scores of all endpoints with attempts within a day, or with a problem; the others are idle."""
    day, nothing, closed = _added(past, since_then), AttemptStats(), CircuitRow(endpoint_gid="")
    scores = {}
    for gid in {*hour, *day, *troubled} - set(deleted):
        circuit = troubled.get(gid, closed)
        scores[gid] = score_endpoint(
            hour.get(gid, nothing), day.get(gid, nothing), circuit.state, circuit.hold, circuit.failures
        )
    return scores


async def troubled_circuits(session: AsyncSession, tenant_gid: str | None) -> Mapping[str, CircuitRow]:
    """Circuits that are not closed, or whose endpoint is held."""
    statement = (
        select(CircuitRow)
        .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
        .where(
            col(Endpoint.deleted_at).is_(None),
            HELD_OR_NOT_CLOSED,
        )
    )
    if tenant_gid is not None:
        statement = statement.where(col(Endpoint.tenant_gid) == tenant_gid)
    return {row.endpoint_gid: row for row in (await session.execute(statement)).scalars()}


async def _deleted_since(session: AsyncSession, moment: datetime) -> set[str]:
    """The endpoints that were deleted since a moment. Those deleted before it have no attempts since."""
    return set((await session.execute(select(col(Endpoint.gid)).where(col(Endpoint.deleted_at) >= moment))).scalars())


async def _worst(
    session: AsyncSession, scores: Mapping[str, Health], hour: Mapping[str, AttemptStats]
) -> Sequence[ScoredEndpoint]:
    gids = sorted(scores, key=lambda gid: (scores[gid].score, gid))[:WORST]
    rows = await session.execute(
        select(Endpoint, CircuitRow, col(Tenant.name))
        .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Endpoint.gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(col(Endpoint.gid).in_(gids))
    )
    found = {row[0].gid: row for row in rows}
    raised = await raised_alerts(session, gids)
    return [
        ScoredEndpoint(*found[gid], scores[gid], hour.get(gid, AttemptStats()), raised.get(gid, {}))
        for gid in gids
        if gid in found
    ]


async def _accepted(session: AsyncSession, since: datetime, tenant_gid: str | None) -> int:
    """How many deliveries were accepted since a moment. Gids contain their time, so the newest are at the end of an
    index."""
    statement = select(col(Delivery.gid)).where(col(Delivery.gid) >= first_gid_at(Kind.DELIVERY, since))
    if tenant_gid is not None:
        statement = statement.where(col(Delivery.tenant_gid) == tenant_gid)
    newest = statement.limit(COUNT_AT_MOST).subquery()
    return int((await session.execute(select(func.count()).select_from(newest))).scalar_one())


async def _endpoints_by_error(session: AsyncSession, since: datetime, tenant_gid: str | None) -> Mapping[str, int]:
    statement = (
        select(col(EndpointMinuteError.error), func.count(col(EndpointMinuteError.endpoint_gid).distinct()))
        .where(col(EndpointMinuteError.minute) >= since, *_errors_of(tenant_gid))
        .group_by(col(EndpointMinuteError.error))
    )
    return {row[0]: row[1] for row in await session.execute(statement)}


def _minutes_of(tenant_gid: str | None) -> list[ColumnElement[bool]]:
    return [] if tenant_gid is None else [col(EndpointMinute.tenant_gid) == tenant_gid]


def _errors_of(tenant_gid: str | None) -> list[Any]:
    if tenant_gid is None:
        return []
    endpoints = select(col(Endpoint.gid)).where(col(Endpoint.tenant_gid) == tenant_gid)
    return [col(EndpointMinuteError.endpoint_gid).in_(endpoints)]
