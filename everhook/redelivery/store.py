"""What replays of messages read and lock. Rows are locked in this order: message, delivery, task."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import defer
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


async def lock_messages(session: AsyncSession, gids: Collection[str]) -> Sequence[tuple[Message, bool]]:
    """Messages, locked in the order of their gids, so that two callers cannot deadlock. Their payloads are not loaded:
    each has with it whether there still is one."""
    found = await session.execute(
        select(Message, col(Message.payload).is_not(None))
        .options(defer(Message.payload))  # type: ignore[arg-type]
        .where(col(Message.gid).in_(gids))
        .order_by(col(Message.gid))
        .with_for_update()
    )
    return [(message, bool(has_payload)) for message, has_payload in found]


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


async def record_decision(session: AsyncSession, delivery_gids: Collection[str], by: str, why: str) -> None:
    """Record who asked for deliveries that were created by a replay."""
    await session.execute(
        update(Delivery).where(col(Delivery.gid).in_(delivery_gids)).values(decided_by=by, decided_why=why)
    )


async def had_delivery(session: AsyncSession, message_gids: Collection[str], endpoint_gid: str) -> set[str]:
    """Those of the messages that had a delivery to an endpoint."""
    found = await session.execute(
        select(col(Delivery.message_gid)).where(
            col(Delivery.message_gid).in_(message_gids), col(Delivery.endpoint_gid) == endpoint_gid
        )
    )
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
