"""Handlers with a real database (SQLite), a real SMTP server, and a real receiver of webhooks; no Temporal."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from everhook.contracts import DeliveryMode
from everhook.delivery.inputs import NewDelivery
from everhook.egress import EgressClient
from everhook.endpoints import store as endpoints
from everhook.endpoints.store import EndpointView, route_to
from everhook.internal.email import Mailer
from everhook.internal.service import InternalHandlers
from everhook.publishing.publication import Accepted
from everhook.settings import MailServer
from everhook.signing import secrets_store as secrets
from everhook.storage.tables import DEFAULT_TENANT_GID, Attempt, Delivery, Endpoint
from testing.receiver import Receiver
from testing.smtp_server import SmtpServer
from tests.activities.conftest import database, egress, migrated, receiver, store
from tests.activities.desk import Desk, FakeCircuits
from tests.stores.factories import KEYRING, Store, publication

__all__ = ["database", "egress", "migrated", "receiver", "store"]

RETENTION = timedelta(days=90)
SENDER = "Everhook <hooks@acme.example>"


@dataclass
class Office:
    """What handles deliveries in a process. `dispatched` is what resulted from handlers."""

    desk: Desk
    mails: SmtpServer
    dispatched: list[NewDelivery] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return self.desk.store

    async def endpoint(self, tenant_gid: str = DEFAULT_TENANT_GID, url: str | None = None, **handler: Any) -> Endpoint:
        """An endpoint of the mode `internal`. `url` is the secret one of a chat."""
        options = {"handler": handler if url is None else handler | {"url": "https://chat.example/…"}}
        endpoint = Endpoint(
            tenant_gid=tenant_gid, mode=DeliveryMode.INTERNAL, options=options, url="", signatures=["standard"]
        )
        async with self.store.database.writing() as session:
            await endpoints.create(session, KEYRING, endpoint)
            if url is not None:
                await secrets.set_handler_url(session, KEYRING, endpoint.gid, url)
        return endpoint

    async def delivery(self, endpoint: Endpoint, content: Any, **changes: Any) -> Delivery:
        """A delivery that was just accepted."""
        route = route_to(await self.view(endpoint))
        message = publication(content, tenant_gid=endpoint.tenant_gid, **changes)
        accepted = await self.store.acceptor().accept_for(message, route)
        assert isinstance(accepted, Accepted)
        async with self.store.database.reading() as session:
            return await session.get_one(Delivery, accepted.deliveries[0].delivery_gid)

    async def view(self, endpoint: Endpoint) -> EndpointView:
        async with self.store.database.reading() as session:
            view = await endpoints.view(session, endpoint.gid)
        assert view is not None
        return view

    async def handled(self, endpoint: Endpoint, content: Any, **changes: Any) -> Attempt:
        """The one attempt of a new delivery."""
        delivery = await self.delivery(endpoint, content, **changes)
        result = await self.desk.handle(delivery)
        assert result.outcome is not None
        return await self.desk.attempt(delivery)


@pytest.fixture
async def mails() -> AsyncIterator[SmtpServer]:
    async with SmtpServer() as server:
        yield server


@pytest.fixture
async def office(store: Store, receiver: Receiver, egress: EgressClient, mails: SmtpServer) -> AsyncIterator[Office]:
    mailer = Mailer(MailServer.from_url(mails.url), SENDER)
    office = made_office(store, receiver, egress, mails, mailer)
    yield office
    await office.desk.reporter.close()


def made_office(
    store: Store, receiver: Receiver, egress: EgressClient, mails: SmtpServer, mailer: Mailer | None
) -> Office:
    handlers = InternalHandlers(store.database, egress, store.acceptor(), mailer, retention=RETENTION)
    office = Office(Desk(store, receiver, egress, FakeCircuits(), handlers=handlers), mails)
    handlers.dispatch_by(office.dispatched.extend)
    return office
