"""Publishes operational events from the outbox: each becomes a message on the channel `everhook.events`, or
`everhook.tasks`, delivered like any other message."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import Result, and_, bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.delivery.inputs import NewDelivery
from everhook.ids import Kind, first_gid_at, new_gid
from everhook.notifications.events import EVENTS_CHANNEL, RECURRING_KINDS, RESERVED, Event, EventKind
from everhook.publishing.publication import Accepted, Publication
from everhook.publishing.routing import Audience
from everhook.publishing.store import Acceptor
from everhook.storage.engine import Database
from everhook.storage.statements import table_of
from everhook.storage.tables import (
    DEFAULT_TENANT_GID,
    Delivery,
    OperationalEvent,
    Receipt,
    ReceiptSeal,
    Subscription,
    Tenant,
    now,
)

BATCH = 500

ONCE_WITHIN = timedelta(days=1)
"""How often an event of each recurring kind is published about an endpoint that itself receives operational events.
Such an event causes deliveries that may fail in turn: without this limit, two broken endpoints would generate events
about each other for ever."""


@dataclass(frozen=True)
class Published:
    """`events` is how many were processed. `new` are the deliveries that resulted: committed, and still to be
    attempted."""

    events: int = 0
    new: tuple[NewDelivery, ...] = ()


class EventPublisher:
    """Publishes recorded events. The message, its deliveries and the mark on the event are one transaction, so each
    event is published once. Its gid is also the idempotency key of the message."""

    def __init__(self, database: Database, acceptor: Acceptor) -> None:
        self._database = database
        self._acceptor = acceptor

    async def publish_some(self) -> Published:
        """Publish the oldest unpublished events, one batch at most. If there are none, the writer is not used."""
        async with self._database.read_connection() as connection:
            if not await _unpublished(connection, 1):
                return Published()
        async with self._database.write_connection() as connection:
            return await self._publish(connection, await _unpublished(connection, BATCH, claim=True))

    async def _publish(self, connection: AsyncConnection, events: Sequence[Event]) -> Published:
        to_publish = await _to_publish(connection, events)
        publications = {event.gid: _publication(event) for event in to_publish}
        accepted = [
            acceptance
            for acceptance in await self._acceptor.accept_within(connection, list(publications.values()))
            if isinstance(acceptance, Accepted)
        ]
        messages = {event_gid: publication.message_gid for event_gid, publication in publications.items()}
        await _mark_published(connection, [event.gid for event in events], messages)
        return Published(len(events), tuple(new for one in accepted for new in one.new))


async def _unpublished(connection: AsyncConnection, limit: int, *, claim: bool = False) -> Sequence[Event]:
    """Unpublished events, oldest first. `claim`: lock them, and skip those that another process is publishing."""
    event = OperationalEvent
    statement = (
        select(
            col(event.gid),
            col(event.kind),
            col(event.tenant_gid),
            col(Tenant.name).label("tenant"),
            col(event.endpoint_gid),
            col(event.delivery_gid),
            col(event.data),
            col(event.created_at),
        )
        .outerjoin(Tenant, and_(col(Tenant.gid) == col(event.tenant_gid), col(Tenant.erasing_since).is_(None)))
        .where(col(event.published_at).is_(None))
        .order_by(col(event.gid))
        .limit(limit)
    )
    if claim:
        statement = statement.with_for_update(of=table_of(event), skip_locked=True)
    rows: Result[Any] = await connection.execute(statement)
    return [Event(**row._mapping) for row in rows]


async def _to_publish(connection: AsyncConnection, events: Sequence[Event]) -> Sequence[Event]:
    """The events to publish: none whose channel has no subscribers, and none that only result from publishing events,
    since that would never end."""
    by_channel = {channel: await _subscribers(connection, channel) for channel in {each.channel for each in events}}
    subscribers = by_channel.get(EVENTS_CHANNEL, set())
    chosen: list[Event] = []
    for event in events:
        if not by_channel[event.channel]:
            continue
        if event.kind in RECURRING_KINDS and event.endpoint_gid in subscribers:
            repeats = any(_is_repeated(event, other) for other in chosen) or await _was_published(connection, event)
        else:
            repeats = event.kind == EventKind.CHECKPOINT and await _covers_only_event_receipts(connection, event)
        if not repeats and not event.is_relapse and not event.is_orphaned:
            chosen.append(event)
    return chosen


def _is_repeated(event: Event, other: Event) -> bool:
    return (event.kind, event.endpoint_gid) == (other.kind, other.endpoint_gid)


async def _subscribers(connection: AsyncConnection, channel: str) -> set[str]:
    """Endpoints that receive the events of a channel."""
    statement = select(col(Subscription.endpoint_gid)).where(col(Subscription.channel) == channel)
    return set((await connection.execute(statement)).scalars())


async def _was_published(connection: AsyncConnection, event: Event) -> bool:
    row = OperationalEvent
    statement = select(col(row.gid)).where(
        col(row.endpoint_gid) == event.endpoint_gid,
        col(row.gid) >= first_gid_at(Kind.EVENT, event.created_at - ONCE_WITHIN),
        col(row.kind) == event.kind,
        col(row.message_gid).is_not(None),
    )
    return (await connection.execute(statement.limit(1))).first() is not None


async def _covers_only_event_receipts(connection: AsyncConnection, event: Event) -> bool:
    """Whether a checkpoint adds only receipts of deliveries of events, for example of the event about the last
    checkpoint."""
    size = int(event.data["size"])
    before = select(func.max(col(ReceiptSeal.size))).where(
        col(ReceiptSeal.tenant_gid) == event.tenant_gid, col(ReceiptSeal.size) < size
    )
    start = (await connection.execute(before)).scalar_one() or 0
    others = (
        select(col(Receipt.gid))
        .join(Delivery, col(Delivery.gid) == col(Receipt.delivery_gid))
        .where(
            col(Receipt.tenant_gid) == event.tenant_gid,
            col(Receipt.seq) >= start,
            col(Receipt.seq) < size,
            ~col(Delivery.channel).startswith(RESERVED, autoescape=True),
        )
    )
    return (await connection.execute(others.limit(1))).first() is None


def _publication(event: Event) -> Publication:
    """The message of an event. Operators, whose endpoints belong to the default tenant, receive all events; a tenant
    receives its own. An endpoint does not receive events about itself."""
    content = event.payload()
    payload = orjson.dumps(content)
    tenants = {DEFAULT_TENANT_GID} if event.tenant_gid is None else {DEFAULT_TENANT_GID, event.tenant_gid}
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=event.channel,
        event_type=event.kind,
        payload=payload,
        content=content,
        body_sha256=hashlib.sha256(event.kind.encode() + b"\0" + payload).hexdigest(),
        published_at=event.created_at,
        tenant_gid=event.tenant_gid,
        idempotency_key=event.gid,
        audience=Audience(frozenset(tenants), but=event.endpoint_gid if event.is_of_endpoint else None),
    )


async def _mark_published(connection: AsyncConnection, event_gids: Sequence[str], messages: Mapping[str, str]) -> None:
    table = table_of(OperationalEvent)
    statement = (
        update(table)
        .where(table.c.gid == bindparam("b_gid"))
        .values(published_at=bindparam("b_now"), message_gid=bindparam("b_message_gid"))
    )
    moment = now()
    rows = [{"b_gid": gid, "b_now": moment, "b_message_gid": messages.get(gid)} for gid in event_gids]
    if rows:
        await connection.execute(statement, rows)
