"""The delivered deliveries whose history workflow is not started yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Result, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.storage.tables import PendingHistory


async def forget(connection: AsyncConnection, delivery_gids: Sequence[str]) -> None:
    """Remove deliveries that have their workflow, or never get one."""
    await connection.execute(delete(PendingHistory).where(col(PendingHistory.delivery_gid).in_(delivery_gids)))


@dataclass(frozen=True)
class Pending:
    """A delivery whose workflow has to be started; with `signal`, signalled too."""

    delivery_gid: str
    settled_at: datetime
    signal: bool


async def pending(
    connection: AsyncConnection, before: datetime, limit: int, *, urgent_before: datetime | None = None
) -> list[Pending]:
    """The oldest ones of before a moment. With `urgent_before` only those to be signalled, and those of before this
    moment."""
    urgent = [or_(col(PendingHistory.signal), col(PendingHistory.settled_at) < urgent_before)] if urgent_before else []
    rows: Result[Any] = await connection.execute(
        select(col(PendingHistory.delivery_gid), col(PendingHistory.settled_at), col(PendingHistory.signal))
        .where(col(PendingHistory.settled_at) < before, *urgent)
        .order_by(col(PendingHistory.delivery_gid))
        .limit(limit)
    )
    return [Pending(row.delivery_gid, row.settled_at, row.signal) for row in rows]
