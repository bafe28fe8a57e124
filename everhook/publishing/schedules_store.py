"""Messages that wait for the time of their delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.storage.statements import insert_into, table_of
from everhook.storage.tables import Message, ScheduledMessage, now

_MESSAGE = table_of(Message)


async def insert_scheduled(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(insert_into(ScheduledMessage), list(rows))


@dataclass(frozen=True)
class Scheduled:
    """A message that was taken off the schedule. `message` are the columns of its row; its payload is None if it was
    erased."""

    message: Any
    document: Mapping[str, Any]


async def take(connection: AsyncConnection, message_gid: str) -> Scheduled | None:
    """Take a message off the schedule: two callers cannot deliver it. None if it does not wait."""
    taken = await connection.execute(
        delete(ScheduledMessage)
        .where(col(ScheduledMessage.message_gid) == message_gid)
        .returning(col(ScheduledMessage.document))
    )
    document = taken.scalar_one_or_none()
    if document is None:
        return None
    row = (await connection.execute(select(_MESSAGE).where(_MESSAGE.c.gid == message_gid))).one_or_none()
    if row is None:
        return None
    return Scheduled(row, document)


async def is_scheduled(connection: AsyncConnection, message_gid: str) -> bool:
    """Whether a message waits for its time."""
    waiting = select(col(ScheduledMessage.message_gid)).where(col(ScheduledMessage.message_gid) == message_gid)
    return (await connection.execute(waiting)).one_or_none() is not None


async def overdue(connection: AsyncConnection, before: datetime, limit: int) -> list[str]:
    """Messages that should have been delivered before a moment, the longest overdue first."""
    rows = await connection.execute(
        select(col(ScheduledMessage.message_gid))
        .where(col(ScheduledMessage.deliver_at) < before)
        .order_by(col(ScheduledMessage.deliver_at))
        .limit(limit)
    )
    return list(rows.scalars())


async def postpone(connection: AsyncConnection, message_gid: str, until: datetime) -> None:
    """Have `overdue` find a message later."""
    table = table_of(ScheduledMessage)
    await connection.execute(table.update().where(table.c.message_gid == message_gid).values(deliver_at=until))


async def cancel(connection: AsyncConnection, message_gid: str) -> bool:
    """Take a message off the schedule and mark it as cancelled. False if it does not wait."""
    table = table_of(ScheduledMessage)
    taken = await connection.execute(
        delete(table).where(table.c.message_gid == message_gid).returning(table.c.message_gid)
    )
    if taken.one_or_none() is None:
        return False
    await connection.execute(_MESSAGE.update().where(_MESSAGE.c.gid == message_gid).values(cancelled_at=now()))
    return True
