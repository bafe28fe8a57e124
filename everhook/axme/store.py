"""Queries for intents and agents. Each is by a key, or a range of keys."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.axme.addresses import FIRST_OF_OTHERS
from everhook.axme.intents import LastResponse, Lease
from everhook.contracts import DeliveryMode
from everhook.lifecycle import store as lifecycle
from everhook.lifecycle.events import DeliveryHistory
from everhook.storage.tables import Attempt, Endpoint, Message, PullItem, Task, Tenant, now


@dataclass(frozen=True)
class IntentRows:
    """A message with its delivery, and what is open of it."""

    message: Message
    history: DeliveryHistory
    lease: Lease | None
    last_response: LastResponse
    task: Task | None


async def intent_rows(session: AsyncSession, message_gid: str, channel: str) -> IntentRows | None:
    """None if there is no such message in the channel, or it has no delivery."""
    message = await session.get(Message, message_gid)
    if message is None or message.channel != channel:
        return None
    rows = await lifecycle.deliveries(session, message_gid, limit=1)
    if not rows:
        return None
    (delivery,) = rows
    leases = await session.execute(
        select(col(PullItem.round), col(PullItem.number), col(PullItem.leased_at)).where(
            col(PullItem.delivery_gid) == delivery.gid, col(PullItem.consumer).is_not(None)
        )
    )
    lease = leases.one_or_none()
    (history,) = await lifecycle.histories(session, rows)
    attempts = await session.execute(
        select(col(Attempt.error_detail), col(Attempt.response_body)).where(
            col(Attempt.delivery_gid) == delivery.gid,
            col(Attempt.round) == delivery.round,
            col(Attempt.number) == delivery.attempts,
        )
    )
    attempt = attempts.one_or_none()
    task = None
    if delivery.mode is DeliveryMode.INBOX:
        task = (await session.execute(select(Task).where(col(Task.delivery_gid) == delivery.gid))).scalar_one_or_none()
    return IntentRows(
        message,
        history,
        Lease(lease.round, lease.number, lease.leased_at or now()) if lease is not None else None,
        LastResponse(attempt.error_detail, attempt.response_body) if attempt is not None else LastResponse(),
        task,
    )


@dataclass(frozen=True)
class AgentRow:
    gid: str
    mode: DeliveryMode
    is_deleted: bool


async def agent_rows(session: AsyncSession, gids: Sequence[str]) -> dict[str, AgentRow]:
    """Those of these endpoints that exist or were deleted, by gid."""
    rows = await session.execute(
        select(col(Endpoint.gid), col(Endpoint.mode), col(Endpoint.deleted_at)).where(col(Endpoint.gid).in_(gids))
    )
    return {row.gid: AgentRow(row.gid, row.mode, row.deleted_at is not None) for row in rows}


async def lock_tenant(session: AsyncSession, tenant_gid: str) -> None:
    """Create agents of a tenant one after the other."""
    await session.execute(select(col(Tenant.gid)).where(col(Tenant.gid) == tenant_gid).with_for_update())


async def count_agents(session: AsyncSession, tenant_gid: str, at_most: int) -> int:
    """How many agents a tenant has, deleted ones included; counted up to `at_most`."""
    found = (
        select(col(Endpoint.gid))
        .where(col(Endpoint.tenant_gid) == tenant_gid, col(Endpoint.gid) < FIRST_OF_OTHERS)
        .limit(at_most)
        .subquery()
    )
    return int((await session.execute(select(func.count()).select_from(found))).scalar_one())


async def agents(session: AsyncSession, tenant_gid: str, prefix: str, limit: int) -> Sequence[Endpoint]:
    """The agents of a tenant whose description begins with a text."""
    rows = await session.execute(
        select(Endpoint)
        .where(
            col(Endpoint.tenant_gid) == tenant_gid,
            col(Endpoint.gid) < FIRST_OF_OTHERS,
            col(Endpoint.deleted_at).is_(None),
            col(Endpoint.description).startswith(prefix, autoescape=True),
        )
        .order_by(col(Endpoint.gid))
        .limit(limit)
    )
    return rows.scalars().all()
