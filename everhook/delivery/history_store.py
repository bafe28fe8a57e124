"""The delivered deliveries whose history workflow is not started yet."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Result, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.storage.tables import PendingHistory


async def forget(connection: AsyncConnection, delivery_gids: Sequence[str]) -> None:
    """Remove deliveries that have their workflow, or never get one."""
    await connection.execute(delete(PendingHistory).where(col(PendingHistory.delivery_gid).in_(delivery_gids)))


async def pending(connection: AsyncConnection, before: datetime, limit: int) -> list[tuple[str, datetime]]:
    """The oldest ones that were delivered before a moment: (delivery gid, delivered at)."""
    rows: Result[Any] = await connection.execute(
        select(col(PendingHistory.delivery_gid), col(PendingHistory.settled_at))
        .where(col(PendingHistory.settled_at) < before)
        .order_by(col(PendingHistory.delivery_gid))
        .limit(limit)
    )
    return [(row.delivery_gid, row.settled_at) for row in rows]
