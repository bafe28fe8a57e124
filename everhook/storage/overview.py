"""What a dashboard shows at a glance. Each question is answered by an index: none looks at every delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Result, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.ids import Kind, first_gid_at
from everhook.storage.endpoint_list import HELD_OR_NOT_CLOSED, Listed, listed
from everhook.storage.tables import Circuit, Delivery, Endpoint, EndpointMinute, Message, now

COUNT_AT_MOST = 100_000
_TOTALS = ("delivered", "retried", "rejected", "duration_ms", "under_100", "under_500", "under_2000", "slower")


@dataclass(frozen=True)
class Minute:
    """What all endpoints, or one, did in a minute."""

    minute: datetime
    delivered: int
    retried: int
    rejected: int
    duration_ms: int
    under_100: int
    under_500: int
    under_2000: int
    slower: int


@dataclass(frozen=True)
class Waiting:
    """Deliveries that are not where they should be yet. Counts stop at `COUNT_AT_MOST`."""

    undispatched: int
    retrying: int
    parked: int
    oldest_undispatched: datetime | None
    oldest_parked: datetime | None


async def minutes(session: AsyncSession, since: datetime, endpoint_gid: str | None = None) -> list[Minute]:
    columns = [func.sum(col(getattr(EndpointMinute, name))).label(name) for name in _TOTALS]
    statement = select(col(EndpointMinute.minute), *columns).where(col(EndpointMinute.minute) >= since)
    if endpoint_gid is not None:
        statement = statement.where(col(EndpointMinute.endpoint_gid) == endpoint_gid)
    rows: Result[Any] = await session.execute(
        statement.group_by(col(EndpointMinute.minute)).order_by(col(EndpointMinute.minute))
    )
    return [Minute(row.minute, *(int(getattr(row, name)) for name in _TOTALS)) for row in rows]


async def troubled(session: AsyncSession, limit: int) -> list[Listed]:
    """Endpoints whose circuit is not closed, or that are paused or disabled; those failing longest first."""
    rows = await session.execute(
        listed()
        .where(HELD_OR_NOT_CLOSED)
        .order_by(func.coalesce(col(Circuit.failing_since), col(Circuit.updated_at)))
        .limit(limit)
    )
    return [Listed(*row) for row in rows]


async def dead_letters_by_reason(session: AsyncSession) -> Mapping[DeadLetterReason, int]:
    """The commonest first."""
    number = func.count()
    rows = await session.execute(
        select(col(Delivery.reason), number)
        .where(col(Delivery.status) == DeliveryStatus.DEAD_LETTERED, col(Delivery.reason).is_not(None))
        .group_by(col(Delivery.reason))
        .order_by(number.desc())
    )
    return {reason: total for reason, total in rows if reason is not None}


async def dead_letters_by_endpoint(session: AsyncSession, gids: Sequence[str]) -> Mapping[str, int]:
    rows = await session.execute(
        select(col(Delivery.endpoint_gid), func.count())
        .where(col(Delivery.status) == DeliveryStatus.DEAD_LETTERED, col(Delivery.endpoint_gid).in_(gids))
        .group_by(col(Delivery.endpoint_gid))
    )
    return {row[0]: row[1] for row in rows}


async def waiting(session: AsyncSession) -> Waiting:
    undispatched, parked = col(Delivery.dispatched_at).is_(None), col(Delivery.status) == DeliveryStatus.PARKED
    return Waiting(
        undispatched=await _count(session, undispatched),
        retrying=await _count(session, col(Delivery.status) == DeliveryStatus.RETRYING),
        parked=await _count(session, parked),
        oldest_undispatched=await _oldest(session, col(Delivery.accepted_at), undispatched),
        oldest_parked=await _oldest(session, col(Delivery.accepted_at), parked),
    )


async def accepted_messages(session: AsyncSession, within: timedelta) -> int:
    """Found by their gids, which carry their time."""
    newest = select(col(Message.gid)).where(col(Message.gid) >= first_gid_at(Kind.MESSAGE, now() - within))
    return await _counted(session, newest)


async def _count(session: AsyncSession, condition: Any) -> int:
    return await _counted(session, select(col(Delivery.gid)).where(condition))


async def _counted(session: AsyncSession, statement: Any) -> int:
    return int(
        (
            await session.execute(select(func.count()).select_from(statement.limit(COUNT_AT_MOST).subquery()))
        ).scalar_one()
    )


async def _oldest(session: AsyncSession, column: Any, condition: Any) -> datetime | None:
    result = await session.execute(select(column).where(condition).order_by(col(Delivery.gid)).limit(1))
    oldest: datetime | None = result.scalar_one_or_none()
    return oldest


async def has_endpoints(session: AsyncSession) -> bool:
    found = await session.execute(select(col(Endpoint.gid)).where(col(Endpoint.deleted_at).is_(None)).limit(1))
    return found.first() is not None
