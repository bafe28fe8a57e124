"""Subscriptions: each lets an endpoint take the matching messages of a channel."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.endpoints.quotas_store import Quotas, check_quotas
from everhook.errors import InvalidField
from everhook.publishing.matching import compile_filter, matching_cost
from everhook.publishing.routes_store import bump
from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.tables import Subscription


async def create(session: AsyncSession, subscription: Subscription, quotas: Quotas | None = None) -> None:
    """Raises InvalidField for a channel that was deleted. Where there are quotas: QuotaExceeded and InvalidField."""
    await _weigh(session, subscription, quotas)
    if not await bump(session, subscription.channel):
        raise InvalidField("channel", f"there is no channel {subscription.channel}")
    session.add(subscription)
    await session.flush()


async def get(session: AsyncSession, gid: str, *, for_change: bool = False) -> Subscription | None:
    """`for_change` locks it until the transaction ends: it may be deleted meanwhile."""
    return await session.get(Subscription, gid, with_for_update=for_change)


async def endpoints_of(session: AsyncSession, gids: Collection[str]) -> dict[str, str]:
    """The endpoints of those of these subscriptions that exist, by the gids of the subscriptions."""
    rows = await session.execute(
        select(col(Subscription.gid), col(Subscription.endpoint_gid)).where(col(Subscription.gid).in_(gids))
    )
    return {row[0]: row[1] for row in rows}


async def page(
    session: AsyncSession,
    *,
    endpoint_gid: str | tuple[str, ...] | None,
    channel: str | tuple[str, ...] | None,
    after: str | None,
    limit: int,
) -> Page[Subscription]:
    """One page of subscriptions, newest first. Several values of a filter mean any of them."""
    conditions = one_of(col(Subscription.endpoint_gid), endpoint_gid) + one_of(col(Subscription.channel), channel)
    statement = select(Subscription).where(*conditions)
    return await page_of(session, statement, col(Subscription.gid), after=after, limit=limit)


async def change(
    session: AsyncSession, subscription: Subscription, changes: dict[str, Any], quotas: Quotas | None = None
) -> None:
    """Raises QuotaExceeded and InvalidField, where there are quotas."""
    for name, value in changes.items():
        setattr(subscription, name, value)
    if not changes.keys().isdisjoint(("events", "filter")):
        with session.no_autoflush:
            await _weigh(session, subscription, quotas)
    session.add(subscription)
    await session.flush()
    await bump(session, subscription.channel)


async def remove_of_endpoint(session: AsyncSession, endpoint_gid: str) -> None:
    """Delete the subscriptions of an endpoint. As with one of them, the locks of channels come last: transactions that
    lock rows in different orders would deadlock."""
    removed = await session.execute(
        delete(Subscription).where(col(Subscription.endpoint_gid) == endpoint_gid).returning(col(Subscription.channel))
    )
    await bump(session, *set(removed.scalars()))


async def remove(session: AsyncSession, subscription: Subscription) -> None:
    await session.delete(subscription)
    await session.flush()
    await bump(session, subscription.channel)


async def _weigh(session: AsyncSession, subscription: Subscription, quotas: Quotas | None) -> None:
    subscription.cost = matching_cost(subscription.events, compile_filter(subscription.filter))
    if quotas is not None:
        await check_quotas(session, quotas, subscription)
