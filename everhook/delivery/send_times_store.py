"""Send times of endpoints with a rate limit: spaced by the limit, across all processes, with one row for each endpoint.

The row holds the last reserved time, not the next free one, so that a changed limit applies to the next reservation.
Times are by the database's clock, so the clocks of processes do not matter.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Double, and_, bindparam, case, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database
from everhook.storage.statements import insert, table_of
from everhook.storage.tables import EndpointRate

SLACK = 0.05
"""Requests are spaced a little wider than the limit says, so that a request that is late by less than this fraction of
a second does not put one too many into the same second."""

HORIZON_S = 0.5
"""A send time is reserved only if the first free one is at most this far ahead."""

SLEEPERS = 10
"""About how many attempts of an endpoint wait for their send time at once, if its limit is less than 200/s."""

LEAST_HORIZON_S = 0.05
CLOCK_STEPPED_S = 5.0
"""No reservation is this far ahead: if one is, the database's clock was set back, or another server took over."""

MAX_TOGETHER = 200


@dataclass(frozen=True)
class SendTime:
    """A time to send at, by `time.monotonic()`. If it is not `reserved`, no send time before it is available."""

    at: float
    reserved: bool


@dataclass(frozen=True)
class _Wanted:
    endpoint_gid: str
    limit: float


class SendTimes:
    """Reserves send times; concurrent attempts share one transaction."""

    def __init__(self, database: Database) -> None:
        self._batches = BatchExecutor(database.write_connection, _reserve_all, at_most=MAX_TOGETHER)

    async def reserve(self, endpoint_gid: str, limit: float) -> SendTime:
        """Reserve the next send time, for a limit in requests per second. Nothing is reserved if it is too far
        ahead."""
        return await self._batches.submit(_Wanted(endpoint_gid, limit))


def spacing(limit: float) -> float:
    """Seconds between two requests."""
    return (1 + SLACK) / limit


def horizon(limit: float) -> float:
    """How many seconds ahead a send time may be reserved."""
    return min(HORIZON_S, max(LEAST_HORIZON_S, SLEEPERS / 2 / limit))


async def _reserve_all(connection: AsyncConnection, items: Sequence[_Wanted]) -> Sequence[SendTime]:
    """Reserve for endpoints in sorted order: transactions that lock rows in different orders would deadlock."""
    wanted: dict[_Wanted, int] = {}
    for item in items:
        wanted[item] = wanted.get(item, 0) + 1
    given = {
        item: await _reserve(connection, item, wanted[item])
        for item in sorted(wanted, key=lambda item: (item.endpoint_gid, item.limit))
    }
    return [given[item].pop() for item in items]


async def _reserve(connection: AsyncConnection, item: _Wanted, wanted: int) -> list[SendTime]:
    """As many send times as are wanted, the soonest last; those that could not be reserved come first."""
    step, ahead = spacing(item.limit), horizon(item.limit)
    count = min(wanted, math.floor(ahead / step) + 1)
    values = {"gid": item.endpoint_gid, "step": step, "ahead": ahead, "rest": (count - 1) * step}
    dialect = connection.dialect.name
    last_in = (await connection.execute(_RESERVE[dialect], values | _clock_value(dialect))).scalar_one_or_none()
    moment = time.monotonic()
    if last_in is None:
        free_in = (await connection.execute(_FREE_IN[dialect], values | _clock_value(dialect))).scalar_one()
        return [SendTime(moment + free_in, reserved=False)] * wanted
    last_at = moment + last_in
    reserved = [SendTime(last_at - number * step, reserved=True) for number in range(count)]
    return [SendTime(last_at + step, reserved=False)] * (wanted - count) + reserved


def _clock_value(dialect: str) -> dict[str, float]:
    return {"now": time.time()} if dialect == "sqlite" else {}


_TABLE = table_of(EndpointRate)
_CLOCKS: Mapping[str, ColumnElement[float]] = {
    # With SQLite all processes share one machine. SQLite's own clock has a resolution of milliseconds only.
    "sqlite": bindparam("now", type_=Double()),
    # The start of the statement is not enough: it may have waited for the row.
    "postgresql": cast(func.extract("epoch", func.clock_timestamp()), Double()),
}
_STEP: ColumnElement[float] = bindparam("step", type_=Double())
_AHEAD: ColumnElement[float] = bindparam("ahead", type_=Double())
_REST: ColumnElement[float] = bindparam("rest", type_=Double())


def _reserving(dialect: str) -> Any:
    """The upsert. It returns no row if the first free time is beyond the horizon."""
    clock, last_at = _CLOCKS[dialect], _TABLE.c.last_at
    free_at = last_at + _STEP
    stepped = last_at > clock + CLOCK_STEPPED_S
    first = case((and_(free_at > clock, ~stepped), free_at), else_=clock)
    statement = insert(dialect, _TABLE).values(endpoint_gid=bindparam("gid"), last_at=clock + _REST)
    return statement.on_conflict_do_update(
        index_elements=[_TABLE.c.endpoint_gid],
        set_={"last_at": first + _REST},
        where=or_(free_at <= clock + _AHEAD, stepped),
    ).returning(last_at - clock)


_RESERVE = {dialect: _reserving(dialect) for dialect in _CLOCKS}
_FREE_IN = {
    dialect: select(_TABLE.c.last_at + _STEP - clock).where(_TABLE.c.endpoint_gid == bindparam("gid"))
    for dialect, clock in _CLOCKS.items()
}
