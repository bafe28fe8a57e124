"""What handlers read and write: whether what they watch is over, and when the next step of a delivery is due."""

from datetime import datetime

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES, DeliveryStatus
from everhook.ids import Kind, is_gid
from everhook.lifecycle import store as lifecycle
from everhook.storage.tables import Channel, Delivery, Task, TaskState, now


async def is_settled(session: AsyncSession, gid: str) -> bool | None:
    """Whether a message, or a task, is settled. None if the session's tenant has no such thing."""
    if is_gid(gid, Kind.TASK):
        state = (await session.execute(select(col(Task.state)).where(col(Task.gid) == gid))).scalar_one_or_none()
        return None if state is None else state is not TaskState.OPEN
    if await lifecycle.message(session, gid) is None:
        return None
    return (await lifecycle.tally(session, gid)).is_settled


async def is_delivered(session: AsyncSession, message_gid: str) -> bool | None:
    """Whether all deliveries of a message are delivered. None if the session's tenant has no such message."""
    if await lifecycle.message(session, message_gid) is None:
        return None
    counts = (await lifecycle.tally(session, message_gid)).counts
    return set(counts) == {DeliveryStatus.DELIVERED}


async def channel_exists(session: AsyncSession, name: str) -> bool:
    return (await session.execute(select(col(Channel.name)).where(col(Channel.name) == name))).first() is not None


async def postpone(connection: AsyncConnection, delivery_gid: str, until: datetime) -> None:
    """Record when a delivery takes its next step. It has a workflow, which waits for that time."""
    waits = [DeliveryStatus.ACCEPTED, DeliveryStatus.PARKED]
    await connection.execute(
        update(Delivery)
        .where(
            col(Delivery.gid) == delivery_gid,
            col(Delivery.status).not_in([*TERMINAL_STATUSES, DeliveryStatus.DEAD_LETTERED]),
        )
        .values(
            status=case((col(Delivery.status).in_(waits), DeliveryStatus.SENDING), else_=col(Delivery.status)),
            due_at=until,
            parked_at=None,
            dispatched_at=func.coalesce(col(Delivery.dispatched_at), now()),
        )
    )
