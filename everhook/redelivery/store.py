"""What a replay of a message reads and locks. Rows are locked in this order: message, delivery, task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode
from everhook.delivery.policy import DeliveryPolicy, resolve
from everhook.storage.paging import one_of
from everhook.storage.statements import table_of
from everhook.storage.tables import ApiKey, Channel, Delivery, Endpoint, Gate, GateState, Message

_GATE, _KEY = table_of(Gate), table_of(ApiKey)


async def lock_message(session: AsyncSession, gid: str) -> Message | None:
    """A message, locked: two calls cannot create the same delivery, and its payload is not erased meanwhile."""
    found = await session.execute(select(Message).where(col(Message.gid) == gid).with_for_update())
    return found.scalar_one_or_none()


@dataclass(frozen=True)
class MessageGate:
    """The gate of a message. `asked` are the deliveries of its steps."""

    state: GateState
    reason: DeadLetterReason | None
    task: dict[str, Any]
    asked: frozenset[str]


async def gate_of(connection: AsyncConnection, message_gid: str) -> MessageGate | None:
    """Also for a tenant whose deliveries did not wait for it."""
    columns = (_GATE.c.state, _GATE.c.reason, _GATE.c.task, _GATE.c.steps)
    row = (await connection.execute(select(*columns).where(_GATE.c.message_gid == message_gid))).one_or_none()
    if row is None:
        return None
    asked = frozenset(step["deliveryGid"] for step in row.steps if "deliveryGid" in step)
    return MessageGate(row.state, row.reason, row.task, asked)


async def key_name(connection: AsyncConnection, gid: str) -> str | None:
    return (await connection.execute(select(_KEY.c.name).where(_KEY.c.gid == gid))).scalar_one_or_none()


@dataclass(frozen=True)
class Leg:
    """A locked delivery, with what its next round needs to know of its endpoint."""

    delivery: Delivery
    mode: DeliveryMode
    endpoint_deleted: bool
    policy: DeliveryPolicy


async def lock_deliveries(
    session: AsyncSession, message_gid: str, limit: int, endpoint_gid: str | None = None
) -> Sequence[Leg]:
    """In the order of their gids, so that two callers cannot deadlock. `endpoint_gid`: only those to this endpoint."""
    rows = await session.execute(
        select(Delivery, col(Endpoint.mode), col(Endpoint.deleted_at), col(Channel.policy), col(Endpoint.policy))
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .outerjoin(Channel, col(Channel.name) == col(Delivery.channel))
        .where(col(Delivery.message_gid) == message_gid, *one_of(col(Delivery.endpoint_gid), endpoint_gid))
        .order_by(col(Delivery.gid))
        .limit(limit)
        .with_for_update(of=Delivery)
    )
    return [
        Leg(delivery, mode, deleted_at is not None, resolve(channel_policy, endpoint_policy))
        for delivery, mode, deleted_at, channel_policy, endpoint_policy in rows
    ]


async def channel_policy(session: AsyncSession, channel: str) -> dict[str, Any] | None:
    found = await session.execute(select(col(Channel.policy)).where(col(Channel.name) == channel))
    return found.scalar_one_or_none()
