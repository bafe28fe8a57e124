"""What happened since the last poll, for the terminal of `everhook dev`. SQLite only.

SQLite numbers the rows of a table in the order of their commits (`rowid`), so a reader that asks for rows after
the last number misses nothing. Ids are not suitable: one that was created early may be committed late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Integer, Result, RowMapping, Select, bindparam, case, func, literal_column, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import Verdict
from everhook.observability.seldom import Seldom
from everhook.storage.engine import Database
from everhook.storage.tables import Attempt, Delivery, Endpoint, OperationalEvent

SAME_ERROR_S = 60.0

log = structlog.get_logger()

_attempt_row: ColumnElement[int] = literal_column("attempt.rowid", Integer)
_event_row: ColumnElement[int] = literal_column("operational_event.rowid", Integer)


@dataclass(frozen=True)
class AttemptNews:
    """One attempt. `next_attempt_at` is None after a success, a rejection and the last attempt of a round."""

    delivery_gid: str
    event_type: str
    url: str
    description: str
    number: int
    verdict: Verdict
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    next_attempt_at: datetime | None


@dataclass(frozen=True)
class EventNews:
    """An operational event of a delivery, with its gid and type, or of an endpoint only."""

    kind: str
    created_at: datetime
    data: dict[str, Any]
    delivery_gid: str | None
    event_type: str | None
    url: str | None
    description: str | None


@dataclass(frozen=True)
class News:
    """Attempts and events, oldest first. `skipped` is the number of attempts beyond the limit."""

    attempts: Sequence[AttemptNews]
    events: Sequence[EventNews]
    skipped: int = 0


class Feed:
    """Attempts and events since the last poll. A poll that finds none costs two look-ups by key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._attempt = 0
        self._event = 0
        self._seldom = Seldom(SAME_ERROR_S)

    async def skip_to_end(self) -> None:
        """Start at the current end of the tables."""
        async with self._database.read_connection() as connection:
            self._attempt = await _newest(connection, _attempt_row, Attempt)
            self._event = await _newest(connection, _event_row, OperationalEvent)

    async def news(self, limit: int) -> News:
        """At most `limit` attempts; more are counted and skipped. Events are few and never skipped.

        What cannot be read is logged, once a minute, and there is no news then: messages are delivered without it.
        """
        try:
            return await self._read(limit)
        except SQLAlchemyError as error:
            if self._seldom.due(str(error)) is not None:
                log.exception("the news cannot be read", error=str(error))
            return News([], [], skipped=0)

    async def _read(self, limit: int) -> News:
        async with self._database.read_connection() as connection:
            attempts = await _rows_after(connection, _ATTEMPTS, self._attempt, limit)
            events = await _rows_after(connection, _EVENTS, self._event, limit)
            last = attempts[-1]["position"] if attempts else self._attempt
            newest = await _newest(connection, _attempt_row, Attempt) if len(attempts) == limit else last
        self._attempt = newest
        self._event = events[-1]["position"] if events else self._event
        return News(
            [AttemptNews(**_without_position(row)) for row in attempts],
            [EventNews(**_without_position(row)) for row in events],
            skipped=newest - last,
        )


async def _newest(connection: AsyncConnection, row: ColumnElement[int], table: type[Any]) -> int:
    newest = select(func.coalesce(func.max(row), 0)).select_from(table)
    return int((await connection.execute(newest)).scalar_one())


async def _rows_after(connection: AsyncConnection, news: Select[Any], row: int, limit: int) -> Sequence[RowMapping]:
    result: Result[Any] = await connection.execute(news.limit(limit), {"last": row})
    return result.mappings().all()


def _without_position(row: RowMapping) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "position"}


_NAME = func.coalesce(
    func.nullif(col(Endpoint.description), ""),
    col(Endpoint.options)["name"].as_string(),
    case((col(Endpoint.url) == "", col(Endpoint.gid)), else_=""),
).label("description")
"""An endpoint without a description or a URL has the name of its inbox, or its gid."""

_ATTEMPTS: Select[Any] = (
    select(  # type: ignore[assignment]
        _attempt_row.label("position"),
        col(Attempt.delivery_gid),
        col(Delivery.event_type),
        col(Endpoint.url),
        _NAME,
        col(Attempt.number),
        col(Attempt.verdict),
        col(Attempt.started_at),
        col(Attempt.duration_ms),
        col(Attempt.status_code),
        col(Attempt.error),
        col(Attempt.next_attempt_at),
    )
    .select_from(Attempt)
    .join(Delivery, col(Delivery.gid) == col(Attempt.delivery_gid))
    .join(Endpoint, col(Endpoint.gid) == col(Attempt.endpoint_gid))
    .where(_attempt_row > bindparam("last"))
    .order_by(_attempt_row)
)

_EVENTS: Select[Any] = (
    select(
        _event_row.label("position"),
        col(OperationalEvent.kind),
        col(OperationalEvent.created_at),
        col(OperationalEvent.data),
        col(OperationalEvent.delivery_gid),
        col(Delivery.event_type),
        col(Endpoint.url),
        _NAME,
    )
    .select_from(OperationalEvent)
    .outerjoin(Delivery, col(Delivery.gid) == col(OperationalEvent.delivery_gid))
    .outerjoin(Endpoint, col(Endpoint.gid) == col(OperationalEvent.endpoint_gid))
    .where(_event_row > bindparam("last"))
    .order_by(_event_row)
)
