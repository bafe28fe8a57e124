"""Subscriptions."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.storage.paging import Page, page_of
from everhook.storage.routes import bump
from everhook.storage.tables import Subscription


async def create(session: AsyncSession, subscription: Subscription) -> None:
    session.add(subscription)
    await session.flush()
    await bump(session, subscription.channel)


async def get(session: AsyncSession, gid: str) -> Subscription | None:
    return await session.get(Subscription, gid)


async def page(
    session: AsyncSession, *, endpoint_gid: str | None, channel: str | None, after: str | None, limit: int
) -> Page[Subscription]:
    statement = select(Subscription)
    if endpoint_gid is not None:
        statement = statement.where(col(Subscription.endpoint_gid) == endpoint_gid)
    if channel is not None:
        statement = statement.where(col(Subscription.channel) == channel)
    return await page_of(session, statement, col(Subscription.gid), after=after, limit=limit)


async def change(session: AsyncSession, subscription: Subscription, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        setattr(subscription, name, value)
    session.add(subscription)
    await session.flush()
    await bump(session, subscription.channel)


async def remove(session: AsyncSession, subscription: Subscription) -> None:
    await session.delete(subscription)
    await session.flush()
    await bump(session, subscription.channel)
