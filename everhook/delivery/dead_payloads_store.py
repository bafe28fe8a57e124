"""Events about dead letters that carry the payload of the message, for subscriptions that ask for it.

The payload is read when the event is sent, so it is stored once, with its message, and an erased one is not sent.
Attempts and receipts have the digest of a body only.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.notifications.events import EVENTS_CHANNEL, EventKind
from everhook.storage.tables import DEFAULT_TENANT_GID, Delivery, Message, Subscription

MAX_BYTES = 256 * 1024
"""Of an event with a payload, where `EVERHOOK_MAX_PAYLOAD_BYTES` does not say otherwise."""

ERASED, TOO_LARGE = "erased", "too_large"
"""Why an event carries no payload. `ERASED`: by a request, or by retention, with or without the message."""


def is_about_dead_letter(channel: str, event_type: str) -> bool:
    """Whether a message is an event about a dead letter."""
    return (channel, event_type) == (EVENTS_CHANNEL, EventKind.DEAD_LETTERED)


async def with_payloads(
    connection: AsyncConnection, events: Mapping[str, bytes], *, max_bytes: int, at_most: int | None = None
) -> dict[str, bytes]:
    """Events about dead letters as they are sent, by the gids of their deliveries.

    One that is larger than `max_bytes` with the payload is sent without. Events after the first `at_most` bytes are
    left out, but never the first.
    """
    rows = await connection.execute(
        select(col(Delivery.gid), col(Delivery.tenant_gid))
        .join(Subscription, col(Subscription.gid) == col(Delivery.subscription_gid))
        .where(col(Delivery.gid).in_(list(events)), col(Subscription.include_payload).is_(True))
    )
    recipients = {row.gid: row.tenant_gid for row in rows}
    found: dict[str, bytes] = {}
    total = 0
    for gid, event in events.items():
        sent = event
        if gid in recipients:
            content = orjson.loads(event)
            payload = await _payload(connection, content, recipients[gid])
            sent = _omitting(content, ERASED) if payload is None else _carrying(content, payload)
            if len(sent) > max_bytes:
                sent = _omitting(content, TOO_LARGE)
        total += len(sent)
        if at_most is not None and total > at_most and found:
            break
        found[gid] = sent
    return found


async def ways_to_send(session: AsyncSession, delivery: Delivery, event: bytes) -> list[bytes]:
    """How an event about a dead letter can have been sent. A session of a tenant sees the payloads of its own."""
    if delivery.subscription_gid is None:  # a test message
        return [event]
    content = orjson.loads(event)
    payload = await _payload(session, content, delivery.tenant_gid)
    carrying = [_carrying(content, payload)] if payload is not None else []
    return [event, *carrying, _omitting(content, ERASED), _omitting(content, TOO_LARGE)]


async def _payload(
    connection: AsyncConnection | AsyncSession, content: dict[str, Any], tenant_gid: str
) -> bytes | None:
    """The payload of a dead letter; None if it was erased. Operators may have those of all tenants, a tenant its
    own."""
    statement = (
        select(col(Message.payload))
        .join(Delivery, col(Delivery.message_gid) == col(Message.gid))
        .where(col(Delivery.gid) == content["deliveryGid"])
    )
    if tenant_gid != DEFAULT_TENANT_GID:
        statement = statement.where(col(Delivery.tenant_gid) == tenant_gid)
    payload: bytes | None = (await connection.execute(statement)).scalar_one_or_none()
    return payload


def _carrying(content: dict[str, Any], payload: bytes) -> bytes:
    """The event with the payload, byte for byte."""
    return _rendered(content, orjson.Fragment(payload), None)


def _omitting(content: dict[str, Any], reason: str) -> bytes:
    return _rendered(content, None, reason)


def _rendered(content: dict[str, Any], payload: Any, omitted: str | None) -> bytes:
    return orjson.dumps(content | {"data": content["data"] | {"payload": payload, "payloadOmitted": omitted}})
