"""Rows that were created long ago."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlmodel import SQLModel

from everhook.contracts import DeliveryStatus, Verdict
from everhook.ids import Kind, first_gid_at, new_gid
from everhook.storage.engine import Database
from everhook.storage.tables import Attempt, Delivery, Endpoint, Message, MessageKey, now
from tests.stores.factories import CHANNEL, moment

_RANDOM = 16
"""Digits of an id after those of its time."""


def gid_of(kind: Kind, days: float) -> str:
    """An id that was created this many days ago."""
    return first_gid_at(kind, now() - timedelta(days=days))[:-_RANDOM] + new_gid(kind)[-_RANDOM:]


def message(days: float, **changes: Any) -> Message:
    fields: dict[str, Any] = {
        "gid": gid_of(Kind.MESSAGE, days),
        "channel": CHANNEL,
        "event_type": "order.created",
        "payload": b'{"a":1}',
        "body_sha256": "",
        "published_at": moment(),
        "accepted_at": now() - timedelta(days=days),
    }
    return Message(**(fields | changes))


def delivery(of: Message, endpoint: Endpoint, *, ended: float | None, **changes: Any) -> Delivery:
    """A delivery that was delivered this many days ago; None: it is under way."""
    fields: dict[str, Any] = {
        "tenant_gid": endpoint.tenant_gid,
        "message_gid": of.gid,
        "endpoint_gid": endpoint.gid,
        "channel": of.channel,
        "event_type": of.event_type,
        "accepted_at": of.accepted_at,
        "status": DeliveryStatus.RETRYING if ended is None else DeliveryStatus.DELIVERED,
        "completed_at": None if ended is None else now() - timedelta(days=ended),
    }
    return Delivery(**(fields | changes))


def attempt(of: Delivery, number: int = 1) -> Attempt:
    return Attempt(
        delivery_gid=of.gid,
        endpoint_gid=of.endpoint_gid,
        round=of.round,
        number=number,
        verdict=Verdict.RETRY,
        started_at=of.accepted_at,
        duration_ms=5,
        status_code=500,
        error="http_500",
        error_detail="it said so",
        response_sha256="ab",
        response_headers=[["server", "x"]],
        response_body=b"you sent a: 1",
    )


def _is_keyed(row: SQLModel) -> bool:
    return isinstance(row, Message) and row.idempotency_key is not None


def _key_of(row: Any) -> MessageKey:
    return MessageKey(
        idempotency_scope=row.idempotency_scope,
        channel=row.channel,
        idempotency_key=row.idempotency_key,
        message_gid=row.gid,
    )


async def keep(database: Database, *rows: SQLModel) -> None:
    async with database.writing() as session:
        session.add_all([*rows, *map(_key_of, filter(_is_keyed, rows))])


async def message_of(database: Database, row: Message | Delivery) -> Message | None:
    gid = row.gid if isinstance(row, Message) else row.message_gid
    async with database.reading() as session:
        return await session.get(Message, gid, populate_existing=True)


def has_response(row: Attempt) -> bool:
    return any(part is not None for part in (row.response_body, row.response_headers, row.error_detail))


class Interrupted(Exception):
    pass


async def interrupted_everywhere(work: Callable[[Callable[[], None]], Awaitable[object]]) -> int:
    """Run something that beats after each step again and again: dead after its first step, after its second, … until it
    comes through. Returns how often it was run."""
    for runs in itertools.count(1):
        steps = itertools.count(1)

        def beat(steps: Iterator[int] = steps, last: int = runs) -> None:
            if next(steps) == last:
                raise Interrupted

        with suppress(Interrupted):
            await work(beat)
            return runs
    raise AssertionError("unreachable")
