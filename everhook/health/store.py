"""The health of endpoints, read from their roll-ups."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, cast, extract, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.health.score import DAY, HOUR, AttemptStats, ErrorInterval, Health, Window, ongoing_since, score_endpoint
from everhook.storage.statements import total
from everhook.storage.tables import CircuitRow, EndpointMinute, EndpointMinuteError

COUNTS = tuple(field.name for field in fields(AttemptStats))


@dataclass(frozen=True)
class Bucket:
    """The statistics of one step of a chart, which starts at `since`."""

    since: datetime
    stats: AttemptStats


@dataclass(frozen=True)
class RecurringError:
    """An error, how often it occurred, and since when without a longer pause. `endpoints`: how many endpoints it
    affected."""

    error: str
    count: int
    since: datetime
    last: datetime
    endpoints: int = 1


@dataclass(frozen=True)
class EndpointHealth:
    health: Health
    series: Sequence[Bucket]
    faults: Sequence[RecurringError]

    @property
    def total(self) -> AttemptStats:
        return AttemptStats.total(bucket.stats for bucket in self.series)


async def endpoint_health(
    session: AsyncSession, circuit: CircuitRow, window: Window, moment: datetime
) -> EndpointHealth:
    """The health of one endpoint: its score at this moment, and its statistics within `window`."""
    gid = circuit.endpoint_gid
    scores = await healths(session, [circuit], moment)
    mine = [col(EndpointMinuteError.endpoint_gid) == gid]
    intervals = await error_intervals(session, moment - window.length, window.bucket, mine)
    return EndpointHealth(
        health=scores[gid],
        series=await series(session, window, moment, [col(EndpointMinute.endpoint_gid) == gid]),
        faults=faults(intervals),
    )


async def healths(session: AsyncSession, circuits: Sequence[CircuitRow], moment: datetime) -> Mapping[str, Health]:
    """The scores of these endpoints by gid, for example of one page of a list."""
    mine = [col(EndpointMinute.endpoint_gid).in_([circuit.endpoint_gid for circuit in circuits])]
    day = await stats_by_endpoint(session, moment - DAY, mine)
    hour = await stats_by_endpoint(session, moment - HOUR, mine)
    return {
        circuit.endpoint_gid: score_endpoint(
            hour.get(circuit.endpoint_gid, AttemptStats()),
            day.get(circuit.endpoint_gid, AttemptStats()),
            circuit.state,
            circuit.hold,
            circuit.failures,
        )
        for circuit in circuits
    }


async def stats_by_endpoint(
    session: AsyncSession, since: datetime, where: Sequence[ColumnElement[bool]] = ()
) -> Mapping[str, AttemptStats]:
    """The statistics of each endpoint since a moment; endpoints without attempts are left out."""
    gid = col(EndpointMinute.endpoint_gid)
    statement = select(gid, *_sums()).where(col(EndpointMinute.minute) >= since, *where).group_by(gid)
    rows = (await session.execute(statement)).all()
    return await asyncio.to_thread(lambda: {row[0]: _stats(row) for row in rows})


async def stats_of_endpoints(session: AsyncSession, since: datetime, gids: Sequence[str]) -> Mapping[str, AttemptStats]:
    """The same for some endpoints."""
    return await stats_by_endpoint(session, since, [col(EndpointMinute.endpoint_gid).in_(gids)])


async def series(
    session: AsyncSession, window: Window, moment: datetime, where: Sequence[ColumnElement[bool]] = ()
) -> Sequence[Bucket]:
    """All buckets of the window, including empty ones. The last one is incomplete."""
    step = window.bucket
    last = _number(moment, step)
    first = last - window.length // step + 1
    bucket = _bucket(EndpointMinute.minute, step)
    statement = (
        select(bucket, *_sums()).where(col(EndpointMinute.minute) >= _moment(first, step), *where).group_by(bucket.name)
    )
    found = {row[0]: _stats(row) for row in await session.execute(statement)}
    return [Bucket(_moment(number, step), found.get(number, AttemptStats())) for number in range(first, last + 1)]


async def error_intervals(
    session: AsyncSession, since: datetime, step: timedelta, where: Sequence[ColumnElement[bool]] = ()
) -> Mapping[str, Sequence[ErrorInterval]]:
    """When each error occurred since a moment, in steps."""
    minute, error = col(EndpointMinuteError.minute), col(EndpointMinuteError.error)
    bucket = _bucket(EndpointMinuteError.minute, step)
    statement = (
        select(error, bucket, func.min(minute), func.max(minute), total(col(EndpointMinuteError.count)))
        .where(minute >= since, *where)
        .group_by(error, bucket.name)
    )
    intervals: dict[str, list[ErrorInterval]] = {}
    for name, _, first, last, count in await session.execute(statement):
        intervals.setdefault(name, []).append(ErrorInterval(first, last, count))
    return intervals


def faults(
    intervals: Mapping[str, Sequence[ErrorInterval]],
    endpoints: Mapping[str, int] | None = None,
    earlier: Mapping[str, Sequence[ErrorInterval]] | None = None,
) -> Sequence[RecurringError]:
    """The recurring errors, the most frequent first. `earlier` intervals are not counted; they only extend `since`."""
    found = [
        RecurringError(
            error=error,
            count=sum(interval.count for interval in seen),
            since=ongoing_since([*seen, *(earlier or {}).get(error, ())]),
            last=max(interval.last for interval in seen),
            endpoints=(endpoints or {}).get(error, 1),
        )
        for error, seen in intervals.items()
    ]
    return sorted(found, key=lambda fault: (-fault.count, fault.error))


def _sums() -> list[ColumnElement[int]]:
    return [total(col(getattr(EndpointMinute, name))) for name in COUNTS]


def _stats(row: Row[*tuple[Any, ...]]) -> AttemptStats:
    return AttemptStats(*row[1:])


def _bucket(column: Any, step: timedelta) -> Any:
    return (cast(extract("epoch", col(column)), BigInteger) // _seconds(step)).label("bucket")


def _seconds(step: timedelta) -> int:
    return step // timedelta(seconds=1)


def _number(moment: datetime, step: timedelta) -> int:
    """The number of the bucket that contains a moment, counted from 1970."""
    return int(moment.timestamp()) // _seconds(step)


def _moment(number: int, step: timedelta) -> datetime:
    return datetime.fromtimestamp(number * _seconds(step), UTC)
