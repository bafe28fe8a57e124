"""What replays of messages read and lock. Rows are locked in this order: message, delivery, task."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode
from everhook.delivery.policy import DeliveryPolicy, resolve
from everhook.storage.paging import one_of
from everhook.storage.statements import insert_into, table_of
from everhook.storage.tables import (
    ApiKey,
    Channel,
    Delivery,
    DeliveryRound,
    Endpoint,
    Gate,
    GateState,
    Message,
    ScheduledMessage,
)

_MESSAGE, _DELIVERY, _GATE, _KEY = table_of(Message), table_of(Delivery), table_of(Gate), table_of(ApiKey)
_SCHEDULED = table_of(ScheduledMessage)


async def lock_message(session: AsyncSession, gid: str) -> Message | None:
    """A message, locked: two calls cannot create the same delivery, and its payload is not erased meanwhile."""
    found = await session.execute(select(Message).where(col(Message.gid) == gid).with_for_update())
    return found.scalar_one_or_none()


@dataclass(frozen=True)
class LockedMessage:
    """What a replay has to know of a message that is locked."""

    gid: str
    channel: str
    endpoint_gid: str | None
    has_payload: bool
    is_cancelled: bool
    is_unrouted: bool


async def lock_messages(connection: AsyncConnection, gids: Collection[str]) -> Sequence[LockedMessage]:
    """Messages, locked in the order of their gids, so that two callers cannot deadlock."""
    of = _MESSAGE.c
    found = await connection.execute(
        select(
            of.gid,
            of.channel,
            of.endpoint_gid,
            of.payload.is_not(None).label("has_payload"),
            of.cancelled_at.is_not(None).label("is_cancelled"),
            of.is_unrouted.is_not(None).label("is_unrouted"),
        )
        .where(of.gid.in_(gids))
        .order_by(of.gid)
        .with_for_update()
    )
    return [LockedMessage(**row._mapping) for row in found]


async def not_open_to(connection: AsyncConnection, message_gids: Collection[str], endpoint_gid: str) -> set[str]:
    """Those of the locked messages that get no delivery to an endpoint from a replay: they had one, or wait for their
    time or for their gate, or their gate has not let them pass."""
    had = select(_DELIVERY.c.gid).where(
        _DELIVERY.c.message_gid == _MESSAGE.c.gid, _DELIVERY.c.endpoint_gid == endpoint_gid
    )
    waits = select(_SCHEDULED.c.message_gid).where(_SCHEDULED.c.message_gid == _MESSAGE.c.gid)
    stopped = select(_GATE.c.message_gid).where(
        _GATE.c.message_gid == _MESSAGE.c.gid, _GATE.c.state != GateState.PASSED
    )
    found = await connection.execute(
        select(_MESSAGE.c.gid).where(
            _MESSAGE.c.gid.in_(message_gids), or_(had.exists(), waits.exists(), stopped.exists())
        )
    )
    return set(found.scalars())


async def mark_routed(connection: AsyncConnection, message_gids: Collection[str]) -> None:
    """Messages without an endpoint have one now."""
    await connection.execute(update(_MESSAGE).where(_MESSAGE.c.gid.in_(message_gids)).values(is_unrouted=None))


async def insert_first_rounds(connection: AsyncConnection, delivery_gids: Collection[str], moment: datetime) -> None:
    rows = [{"delivery_gid": gid, "round": 1, "began_at": moment} for gid in delivery_gids]
    await connection.execute(insert_into(DeliveryRound), rows)


async def load_messages(session: AsyncSession, gids: Collection[str]) -> Sequence[Message]:
    return (await session.execute(select(Message).where(col(Message.gid).in_(gids)))).scalars().all()


async def lock_payloads(session: AsyncSession, gids: Collection[str]) -> set[str]:
    """Lock messages in the same order, without reading their payloads. Returns those that still have one."""
    found = await session.execute(
        select(col(Message.gid), col(Message.payload).is_not(None))
        .where(col(Message.gid).in_(gids))
        .order_by(col(Message.gid))
        .with_for_update()
    )
    return {gid for gid, has_payload in found if has_payload}


async def messages_of(session: AsyncSession, delivery_gids: Collection[str]) -> set[str]:
    """The messages of deliveries."""
    found = await session.execute(select(col(Delivery.message_gid)).where(col(Delivery.gid).in_(delivery_gids)))
    return set(found.scalars())


@dataclass(frozen=True)
class MessageGate:
    """The gate of a message. `asked` are the deliveries of its steps."""

    state: GateState
    reason: DeadLetterReason | None
    task: dict[str, Any]
    asked: frozenset[str]


async def gates_of(connection: AsyncConnection, message_gids: Collection[str]) -> dict[str, MessageGate]:
    """Those of the messages that have one; also for a tenant whose deliveries did not wait for it."""
    columns = (_GATE.c.message_gid, _GATE.c.state, _GATE.c.reason, _GATE.c.task, _GATE.c.steps)
    rows = await connection.execute(select(*columns).where(_GATE.c.message_gid.in_(message_gids)))
    return {
        row.message_gid: MessageGate(
            row.state,
            row.reason,
            row.task,
            frozenset(step["deliveryGid"] for step in row.steps if "deliveryGid" in step),
        )
        for row in rows
    }


async def key_names(connection: AsyncConnection, gids: Collection[str]) -> dict[str, str]:
    if not gids:
        return {}
    rows = await connection.execute(select(_KEY.c.gid, _KEY.c.name).where(_KEY.c.gid.in_(gids)))
    return {row.gid: row.name for row in rows}


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
    of_message = [col(Delivery.message_gid) == message_gid, *one_of(col(Delivery.endpoint_gid), endpoint_gid)]
    return await _lock_legs(session, of_message, limit)


async def lock_legs(session: AsyncSession, delivery_gids: Collection[str]) -> Sequence[Leg]:
    """The same for deliveries that are named."""
    return await _lock_legs(session, [col(Delivery.gid).in_(delivery_gids)], len(delivery_gids))


async def _lock_legs(session: AsyncSession, where: Sequence[ColumnElement[bool]], limit: int) -> Sequence[Leg]:
    rows = await session.execute(
        select(Delivery, col(Endpoint.mode), col(Endpoint.deleted_at), col(Channel.policy), col(Endpoint.policy))
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .outerjoin(Channel, col(Channel.name) == col(Delivery.channel))
        .where(*where)
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
