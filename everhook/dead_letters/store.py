"""Dead letters: finding them by the filters of operators."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.tables import Channel, Delivery, Endpoint

_IS_DEAD = col(Delivery.status) == DeliveryStatus.DEAD_LETTERED


@dataclass(frozen=True)
class DeadLetterFilter:
    """All given parts must match; several values of a part mean any of them. `since` (inclusive) and `until`
    (exclusive) bound the time of dead-lettering. `of_deleted`: True for those whose endpoint was deleted, False for
    the others."""

    tenant_gid: tuple[str, ...] | None = None
    channel: tuple[str, ...] | None = None
    endpoint_gid: tuple[str, ...] | None = None
    subscription_gid: tuple[str, ...] | None = None
    event_type: tuple[str, ...] | None = None
    reason: tuple[DeadLetterReason, ...] | None = None
    status_code: tuple[int, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    of_deleted: bool | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        moment = col(Delivery.dead_lettered_at)
        return [
            _IS_DEAD,
            *one_of(col(Delivery.tenant_gid), self.tenant_gid),
            *one_of(col(Delivery.channel), self.channel),
            *one_of(col(Delivery.endpoint_gid), self.endpoint_gid),
            *one_of(col(Delivery.subscription_gid), self.subscription_gid),
            *one_of(col(Delivery.event_type), self.event_type),
            *one_of(col(Delivery.reason), self.reason),
            *one_of(col(Delivery.last_status_code), self.status_code),
            *([moment >= self.since] if self.since is not None else []),
            *([moment < self.until] if self.until is not None else []),
            *self._endpoint_exists(),
        ]

    def _endpoint_exists(self) -> list[ColumnElement[bool]]:
        if self.of_deleted is None:
            return []
        deleted = select(col(Endpoint.gid)).where(col(Endpoint.deleted_at).is_not(None))
        is_deleted = col(Delivery.endpoint_gid).in_(deleted)
        return [is_deleted if self.of_deleted else ~is_deleted]


async def count(session: AsyncSession, chosen: DeadLetterFilter) -> int:
    result = await session.execute(select(func.count()).select_from(Delivery).where(*chosen.conditions()))
    return int(result.scalar_one())


async def unknown_channels(session: AsyncSession, names: Collection[str]) -> set[str]:
    """Those of these names that neither a channel has nor a dead letter, whose channel may be deleted."""
    existing = await session.execute(select(col(Channel.name)).where(col(Channel.name).in_(names)))
    others = set(names) - set(existing.scalars())
    return {name for name in others if not await count(session, DeadLetterFilter(channel=(name,)))}


async def endpoints_of(session: AsyncSession, chosen: DeadLetterFilter, *, at_most: int) -> list[str]:
    statement = select(col(Delivery.endpoint_gid)).where(*chosen.conditions()).distinct().limit(at_most)
    return list((await session.execute(statement)).scalars())


async def page(session: AsyncSession, chosen: DeadLetterFilter, *, after: str | None, limit: int) -> Page[Delivery]:
    statement = select(Delivery).where(*chosen.conditions())
    return await page_of(session, statement, col(Delivery.gid), after=after, limit=limit)
