"""Parked deliveries: finding them, counting them, and releasing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import DeliveryStatus
from everhook.delivery.store import HAS_NO_WORKFLOW
from everhook.storage.tables import Delivery, now


@dataclass(frozen=True)
class Parked:
    """A parked delivery. One without a workflow was parked when it was accepted, or before its first attempt."""

    gid: str
    has_workflow: bool


async def oldest_parked(connection: AsyncConnection, endpoint_gid: str, limit: int) -> list[Parked]:
    rows = await connection.execute(
        select(col(Delivery.gid), col(Delivery.dispatched_at).is_not(None))
        .where(col(Delivery.endpoint_gid) == endpoint_gid, col(Delivery.status) == DeliveryStatus.PARKED)
        .order_by(col(Delivery.gid))
        .limit(limit)
    )
    return [Parked(row[0], bool(row[1])) for row in rows]


COUNTED_PARKED = 100_000


async def count_parked(connection: AsyncConnection, endpoint_gid: str) -> int:
    """How many deliveries of an endpoint are parked, counted up to `COUNTED_PARKED`."""
    parked = (
        select(col(Delivery.gid))
        .where(col(Delivery.endpoint_gid) == endpoint_gid, col(Delivery.status) == DeliveryStatus.PARKED)
        .limit(COUNTED_PARKED)
        .subquery()
    )
    return int((await connection.execute(select(func.count()).select_from(parked))).scalar_one())


async def accept_again(
    connection: AsyncConnection, gids: Sequence[str], seen_at: datetime, bound: timedelta
) -> set[str]:
    """Change parked deliveries without a workflow back to accepted, by compare-and-set. Returns those that were
    changed.

    `bound` is how long their first attempts may take. A delivery that was parked again after `seen_at` stays parked.
    """
    rows = await connection.execute(
        update(Delivery)
        .where(
            col(Delivery.gid).in_(gids),
            col(Delivery.status) == DeliveryStatus.PARKED,
            col(Delivery.parked_at) <= seen_at,
            HAS_NO_WORKFLOW,
        )
        .values(status=DeliveryStatus.ACCEPTED, due_at=now() + bound, parked_at=None)
        .returning(col(Delivery.gid))
    )
    return set(rows.scalars())


async def mark_released(connection: AsyncConnection, gids: Sequence[str], seen_at: datetime) -> None:
    """Mark deliveries as released. One that was parked again after `seen_at` stays parked."""
    await connection.execute(
        update(Delivery)
        .where(
            col(Delivery.gid).in_(gids),
            col(Delivery.status) == DeliveryStatus.PARKED,
            col(Delivery.parked_at) <= seen_at,
        )
        .values(status=DeliveryStatus.RETRYING, due_at=now(), parked_at=None)
    )
