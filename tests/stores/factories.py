"""Rows and values for tests: each with everything a test does not care about filled in."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlmodel import SQLModel, col

from everhook.channels import store as channels
from everhook.contracts import AttemptRecord, DeliveryStatus, Verdict
from everhook.delivery.inputs_store import InputDefaults
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.ids import Kind, new_gid
from everhook.publishing.publication import Acceptance, Accepted, Publication
from everhook.publishing.store import Acceptor
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.tables import (
    DEFAULT_TENANT_GID,
    Attempt,
    CircuitRow,
    Delivery,
    Endpoint,
    Message,
    OperationalEvent,
    Subscription,
)
from everhook.tenants import store as tenants

CHANNEL = "orders"
URL = "https://example.com/hook"
KEYRING = KeyRing([new_master_key()])
ISSUER = "hooks.example.com"


def moment(seconds: float = 0) -> datetime:
    """A fixed time, and times around it."""
    return datetime(2026, 1, 31, 12, 0, tzinfo=UTC) + timedelta(seconds=seconds)


def publication(
    content: Any = None, *, key: str | None = None, tenant_gid: str | None = None, **changes: Any
) -> Publication:
    content = {"a": 1} if content is None else content
    payload = json.dumps(content).encode()
    fields: dict[str, Any] = {
        "message_gid": new_gid(Kind.MESSAGE),
        "channel": CHANNEL,
        "event_type": "order.created",
        "payload": payload,
        "content": content,
        "body_sha256": hashlib.sha256(payload).hexdigest(),
        "published_at": moment(),
        "tenant_gid": tenant_gid,
        "idempotency_key": key,
    }
    return Publication(**(fields | changes))


def attempt_record(delivery: Delivery, number: int = 1, **changes: Any) -> AttemptRecord:
    fields: dict[str, Any] = {
        "attempt_gid": new_gid(Kind.ATTEMPT),
        "delivery_gid": delivery.gid,
        "endpoint_gid": delivery.endpoint_gid,
        "round": delivery.round,
        "number": number,
        "verdict": Verdict.RETRY,
        "started_at": moment(number),
        "duration_ms": 500,
    }
    return AttemptRecord(**(fields | changes))


def accepted(result: Acceptance) -> Accepted:
    assert isinstance(result, Accepted), result
    return result


@dataclass(frozen=True)
class Store:
    """Makes rows in a database and reads them back."""

    database: Database
    keyring: KeyRing = KEYRING

    def acceptor(self, **defaults: Any) -> Acceptor:
        return Acceptor(self.database, InputDefaults(**defaults))

    async def channel(self, name: str = CHANNEL, policy: dict[str, Any] | None = None) -> str:
        async with self.database.writing() as session:
            await channels.create(session, name, policy)
        return name

    async def tenant(self, name: str) -> str:
        async with self.database.writing() as session:
            tenant = await tenants.ensure_tenant(session, name)
            assert tenant is not None
            return tenant.gid

    async def endpoint(self, tenant_gid: str = DEFAULT_TENANT_GID, **changes: Any) -> Endpoint:
        endpoint = _endpoint(tenant_gid, changes)
        async with self.database.writing() as session:
            await endpoints.create(session, self.keyring, endpoint)
        return endpoint

    async def subscription(self, endpoint: Endpoint, channel: str = CHANNEL, **changes: Any) -> Subscription:
        subscription = _subscription(endpoint, channel, changes)
        async with self.database.writing() as session:
            await subscriptions.create(session, subscription)
        return subscription

    async def subscribed(self, tenant_gid: str = DEFAULT_TENANT_GID, **changes: Any) -> Endpoint:
        """An endpoint with a subscription to everything on the channel, which is there afterwards."""
        endpoint = _endpoint(tenant_gid, changes)
        async with self.database.writing() as session:
            await channels.create(session, CHANNEL, None)
            await endpoints.create(session, self.keyring, endpoint)
            await subscriptions.create(session, _subscription(endpoint, CHANNEL, {}))
        return endpoint

    async def delivery(self, endpoint: Endpoint | None = None, **changes: Any) -> Delivery:
        """A delivery in any state, with its message; to a new endpoint unless one is given."""
        (delivery,) = await self.deliveries(1, endpoint, **changes)
        return delivery

    async def deliveries(self, count: int, endpoint: Endpoint | None = None, **changes: Any) -> list[Delivery]:
        """This many deliveries to one endpoint, oldest first."""
        endpoint = endpoint or await self.subscribed()
        pairs = [_delivery(endpoint, changes) for _ in range(count)]
        async with self.database.writing() as session:
            session.add_all([row for pair in pairs for row in pair])
        return [delivery for _, delivery in pairs]

    async def read(self, delivery: Delivery) -> Delivery:
        async with self.database.reading() as session:
            found = await session.get(Delivery, delivery.gid)
        assert found is not None
        return found

    async def status(self, delivery: Delivery) -> DeliveryStatus:
        return (await self.read(delivery)).status

    async def attempts(self, delivery: Delivery) -> Sequence[Attempt]:
        async with self.database.reading() as session:
            found = await session.execute(
                select(Attempt)
                .where(col(Attempt.delivery_gid) == delivery.gid)
                .order_by(col(Attempt.round), col(Attempt.number))
            )
            return found.scalars().all()

    async def events(self) -> list[OperationalEvent]:
        async with self.database.reading() as session:
            found = await session.execute(select(OperationalEvent).order_by(col(OperationalEvent.gid)))
            return list(found.scalars())

    async def count(self, model: type[SQLModel]) -> int:
        async with self.database.reading() as session:
            return int((await session.execute(select(func.count()).select_from(model))).scalar_one())

    async def circuit(self, endpoint: Endpoint, **changes: Any) -> CircuitRow:
        """An endpoint's circuit; with changes it is made so first."""
        async with self.database.writing() as session:
            row = await session.get(CircuitRow, endpoint.gid)
            assert row is not None
            for name, value in changes.items():
                setattr(row, name, value)
            session.add(row)
        return row


def _endpoint(tenant_gid: str, changes: dict[str, Any]) -> Endpoint:
    return Endpoint(**({"tenant_gid": tenant_gid, "url": URL, "signatures": ["standard"]} | changes))


def _subscription(endpoint: Endpoint, channel: str, changes: dict[str, Any]) -> Subscription:
    return Subscription(tenant_gid=endpoint.tenant_gid, endpoint_gid=endpoint.gid, channel=channel, **changes)


def _delivery(endpoint: Endpoint, changes: dict[str, Any]) -> tuple[Message, Delivery]:
    message = Message(
        channel=CHANNEL, event_type="order.created", payload=b'{"a":1}', body_sha256="", published_at=moment()
    )
    fields: dict[str, Any] = {
        "tenant_gid": endpoint.tenant_gid,
        "message_gid": message.gid,
        "endpoint_gid": endpoint.gid,
        "channel": CHANNEL,
        "event_type": "order.created",
        "accepted_at": moment(),
        "due_at": moment(),
    }
    return message, Delivery(**(fields | changes))
