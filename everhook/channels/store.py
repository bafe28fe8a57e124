"""Channels, with their policies."""

import secrets
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.delivery import policy_history_store as policy_history
from everhook.event_types.modes import ValidationMode
from everhook.publishing.routes_store import bump
from everhook.storage.paging import Page, page_of
from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import Channel, Subscription, now


async def create(
    session: AsyncSession,
    name: str,
    policy: dict[str, Any] | None,
    gates: list[dict[str, Any]] | None = None,
    circuit: dict[str, Any] | None = None,
    validation: ValidationMode = ValidationMode.OFF,
    retention_days: float | None = None,
) -> Channel | None:
    """The new channel; None if the name is taken."""
    connection = await session.connection()
    statement = insert_ignoring(connection, Channel, "name", returning="name")
    row = {
        "name": name,
        "policy": policy,
        "gates": gates,
        "circuit": circuit,
        "validation": validation,
        "retention_days": retention_days,
        # Processes cache routes by this version: it must be none that an earlier channel of this name has had.
        "routes_version": secrets.randbits(62),
        "created_at": now(),
    }
    created = (await session.execute(statement.values(row))).one_or_none()
    if created is None:
        return None
    # A channel of this name may have been deleted before.
    await policy_history.record_policy(session, None, channel=name)
    return await get(session, name)


async def get(session: AsyncSession, name: str, *, for_change: bool = False) -> Channel | None:
    """`for_change` locks it until the transaction ends: it may be deleted meanwhile. Messages can be published."""
    lock = {"key_share": True} if for_change else None
    return await session.get(Channel, name, with_for_update=lock, populate_existing=for_change)


async def page(session: AsyncSession, *, after: str | None, limit: int) -> Page[Channel]:
    return await page_of(session, select(Channel), col(Channel.name), after=after, limit=limit, newest_first=False)


async def set_gates(session: AsyncSession, channel: Channel, gates: list[dict[str, Any]] | None) -> None:
    channel.gates = gates
    session.add(channel)
    await session.flush()
    await bump(session, channel.name)


async def set_validation(session: AsyncSession, channel: Channel, validation: ValidationMode) -> None:
    channel.validation = validation
    session.add(channel)
    await session.flush()
    await bump(session, channel.name)


async def set_retention(session: AsyncSession, channel: Channel, days: float | None) -> None:
    channel.retention_days = days
    session.add(channel)
    await session.flush()


async def set_policy(session: AsyncSession, channel: Channel, policy: dict[str, Any] | None) -> None:
    if policy != channel.policy:
        await policy_history.record_policy(session, channel.policy, channel=channel.name)
    channel.policy = policy
    session.add(channel)
    await session.flush()
    await bump(session, channel.name)


async def set_circuit(session: AsyncSession, channel: Channel, circuit: dict[str, Any] | None) -> None:
    channel.circuit = circuit
    session.add(channel)
    await session.flush()


async def remove(session: AsyncSession, name: str) -> bool:
    """Delete a channel. False, and nothing is changed, while it has subscriptions."""
    subscriptions = select(func.count()).select_from(Subscription).where(col(Subscription.channel) == name)
    if (await session.execute(subscriptions)).scalar_one():
        return False
    removed = await session.execute(delete(Channel).where(col(Channel.name) == name).returning(col(Channel.policy)))
    for policy in removed.scalars():
        await policy_history.record_policy(session, policy, channel=name)
    return True
