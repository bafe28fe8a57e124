"""Requests in flight to endpoints with `max_in_flight`, counted over all processes: one row for each request.

An endpoint has as many slots as its limit. An attempt takes a free one before its request, and deletes the row after
it. If its process dies, the slot becomes free when no request can still be in flight.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from everhook.ids import Kind, new_gid
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database
from everhook.storage.statements import insert, table_of
from everhook.storage.tables import EndpointTurn, now

MAX_TOGETHER = 200

log = structlog.get_logger()


@dataclass(frozen=True)
class Turn:
    """A slot of an endpoint that an attempt holds."""

    endpoint_gid: str
    slot: int
    holder: str


@dataclass(frozen=True)
class _Wanted:
    endpoint_gid: str
    limit: int
    holder: str
    until: datetime


class Turns:
    """Takes and gives back slots; concurrent attempts share one transaction."""

    def __init__(self, database: Database) -> None:
        self._taking = BatchExecutor(database.write_connection, _take_all, at_most=MAX_TOGETHER)
        self._returning = BatchExecutor(database.write_connection, _return_all, at_most=MAX_TOGETHER)
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, endpoint_gid: str, limit: int, lease: timedelta) -> Turn | None:
        """Take a free slot, for no longer than `lease`. None if there is none."""
        wanted = _Wanted(endpoint_gid, limit, new_gid(Kind.ATTEMPT), now() + lease)
        taking = asyncio.ensure_future(self._taking.submit(wanted))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._return_unused)
            raise

    async def give_back(self, turn: Turn) -> None:
        """Give a slot back. If the database is unavailable, the slot becomes free at the end of its lease."""
        try:
            await self._returning.submit(turn)
        except Exception as error:
            log.warning("a slot of an endpoint is free only later", endpoint_gid=turn.endpoint_gid, error=str(error))

    def background(self, giving_back: Coroutine[Any, Any, None]) -> None:
        """Run it in the background. `close` waits for it."""
        task = asyncio.create_task(giving_back)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give back what is to be given back in the background."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _return_unused(self, taken: "asyncio.Future[Turn | None]") -> None:
        if not taken.cancelled() and taken.exception() is None and (turn := taken.result()) is not None:
            self.background(self.give_back(turn))


async def _take_all(connection: AsyncConnection, items: Sequence[_Wanted]) -> Sequence[Turn | None]:
    """Endpoints in sorted order: transactions that lock rows in different orders would deadlock."""
    taken: dict[_Wanted, Turn | None] = {}
    moment = now()
    for item in sorted(items, key=lambda item: item.endpoint_gid):
        taken[item] = await _take(connection, item, moment)
    return [taken[item] for item in items]


async def _take(connection: AsyncConnection, item: _Wanted, moment: datetime) -> Turn | None:
    found = await connection.execute(
        select(_TABLE.c.slot).where(_TABLE.c.endpoint_gid == item.endpoint_gid, _TABLE.c.until > moment)
    )
    held = set(found.scalars())
    if len(held) >= item.limit:  # more, after the limit was lowered
        return None
    for slot in range(item.limit):
        if slot in held:
            continue
        statement = insert(connection.dialect.name, _TABLE).values(
            endpoint_gid=item.endpoint_gid, slot=slot, holder=item.holder, until=item.until
        )
        statement = statement.on_conflict_do_update(
            index_elements=[_TABLE.c.endpoint_gid, _TABLE.c.slot],
            set_={"holder": item.holder, "until": item.until},
            where=_TABLE.c.until <= moment,
        ).returning(_TABLE.c.slot)
        if (await connection.execute(statement)).scalar_one_or_none() is not None:
            return Turn(item.endpoint_gid, slot, item.holder)
    return None


async def _return_all(connection: AsyncConnection, turns: Sequence[Turn]) -> Sequence[None]:
    """A slot that another attempt has taken after the lease stays."""
    for turn in sorted(turns, key=lambda turn: (turn.endpoint_gid, turn.slot)):
        await connection.execute(
            delete(_TABLE).where(
                _TABLE.c.endpoint_gid == turn.endpoint_gid,
                _TABLE.c.slot == turn.slot,
                _TABLE.c.holder == turn.holder,
            )
        )
    return [None] * len(turns)


_TABLE = table_of(EndpointTurn)
