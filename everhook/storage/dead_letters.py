"""Dead letters: finding them by what operators filter by."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.storage.paging import Page, page_of
from everhook.storage.tables import Delivery

_IS_DEAD = col(Delivery.status) == DeliveryStatus.DEAD_LETTERED


@dataclass(frozen=True)
class DeadLetterFilter:
    """Every part given must hold. `since` and `until` bound the time of dead-lettering: from, and before."""

    tenant_gid: str | None = None
    channel: str | None = None
    endpoint_gid: str | None = None
    event_type: str | None = None
    reason: DeadLetterReason | None = None
    status_code: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        wanted: list[ColumnElement[bool] | None] = [
            None if self.tenant_gid is None else col(Delivery.tenant_gid) == self.tenant_gid,
            None if self.channel is None else col(Delivery.channel) == self.channel,
            None if self.endpoint_gid is None else col(Delivery.endpoint_gid) == self.endpoint_gid,
            None if self.event_type is None else col(Delivery.event_type) == self.event_type,
            None if self.reason is None else col(Delivery.reason) == self.reason,
            None if self.status_code is None else col(Delivery.last_status_code) == self.status_code,
            None if self.since is None else col(Delivery.dead_lettered_at) >= self.since,
            None if self.until is None else col(Delivery.dead_lettered_at) < self.until,
        ]
        return [_IS_DEAD, *(condition for condition in wanted if condition is not None)]


async def count(session: AsyncSession, chosen: DeadLetterFilter) -> int:
    result = await session.execute(select(func.count()).select_from(Delivery).where(*chosen.conditions()))
    return int(result.scalar_one())


async def endpoints_of(session: AsyncSession, chosen: DeadLetterFilter, *, at_most: int) -> list[str]:
    statement = select(col(Delivery.endpoint_gid)).where(*chosen.conditions()).distinct().limit(at_most)
    return list((await session.execute(statement)).scalars())


async def page(session: AsyncSession, chosen: DeadLetterFilter, *, after: str | None, limit: int) -> Page[Delivery]:
    statement = select(Delivery).where(*chosen.conditions())
    return await page_of(session, statement, col(Delivery.gid), after=after, limit=limit)


async def count_older_than(connection: AsyncConnection, moment: datetime) -> int:
    statement = select(func.count()).select_from(Delivery).where(_IS_DEAD, col(Delivery.dead_lettered_at) < moment)
    return int((await connection.execute(statement)).scalar_one())
