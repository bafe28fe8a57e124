"""What handlers write and read: steps that are due later, messages that are sent once, the URL of a chat."""

from datetime import timedelta

import pytest

from everhook.circuit.machine import Hold
from everhook.contracts import DeliveryStatus
from everhook.delivery.parked_store import count_parked
from everhook.endpoints import store as endpoints
from everhook.endpoints.store import route_to
from everhook.internal import store as handlers
from everhook.publishing.publication import Accepted
from everhook.signing import secrets_store as secrets
from everhook.storage.tables import EndpointSecret, Message, now
from everhook.storage.tenant_scope import TenantScope
from tests.stores.factories import Store, publication

URL = "https://hooks.example.com/s3cr3t"


@pytest.mark.both_databases
async def test_a_step_that_is_due_later_is_no_parking_and_ends_with_its_delivery(store: Store) -> None:
    endpoint = await store.subscribed()
    until = now() + timedelta(days=3)
    expected = {
        DeliveryStatus.ACCEPTED: DeliveryStatus.SENDING,
        DeliveryStatus.PARKED: DeliveryStatus.SENDING,
        DeliveryStatus.RETRYING: DeliveryStatus.RETRYING,
        DeliveryStatus.DELIVERED: DeliveryStatus.DELIVERED,
        DeliveryStatus.DISCARDED: DeliveryStatus.DISCARDED,
        DeliveryStatus.DEAD_LETTERED: DeliveryStatus.DEAD_LETTERED,
    }
    for status, after in expected.items():
        parked_at = now() if status is DeliveryStatus.PARKED else None
        delivery = await store.delivery(endpoint, status=status, parked_at=parked_at)
        async with store.database.write_connection() as connection:
            await handlers.postpone(connection, delivery.gid, until)
        row = await store.read(delivery)
        is_open = after in (DeliveryStatus.SENDING, DeliveryStatus.RETRYING)
        assert (row.status, row.due_at == until, row.dispatched_at is not None) == (after, is_open, is_open)
        assert row.parked_at is None
    async with store.database.read_connection() as connection:
        assert await count_parked(connection, endpoint.gid) == 0


@pytest.mark.both_databases
async def test_a_message_with_a_key_is_sent_once_to_an_endpoint(store: Store) -> None:
    endpoint = await store.endpoint()
    await store.circuit(endpoint, hold=Hold.PAUSED)
    async with store.database.reading() as session:
        view = await endpoints.view(session, endpoint.gid)
    assert view is not None
    acceptor = store.acceptor()
    first = await acceptor.accept_for(publication({"n": 1}, key="a"), route_to(view))
    assert isinstance(first, Accepted)
    assert [delivery.status for delivery in first.deliveries] == [DeliveryStatus.PARKED]
    again = await acceptor.accept_for(publication({"n": 1}, key="a"), route_to(view))
    assert isinstance(again, Accepted)
    assert (again.duplicate, again.message_gid) == (True, first.message_gid)
    assert await store.count(Message) == 1


@pytest.mark.both_databases
async def test_the_url_of_a_handler_is_replaced_and_signs_nothing(store: Store) -> None:
    endpoint = await store.endpoint()
    async with store.database.writing() as session:
        await secrets.set_handler_url(session, store.keyring, endpoint.gid, "https://hooks.example.com/first")
        await secrets.set_handler_url(session, store.keyring, endpoint.gid, URL)
    async with store.database.writing() as session:
        await secrets.rotate(session, store.keyring, endpoint.gid, "whsec_" + "A" * 32, timedelta())
    async with store.database.read_connection() as connection:
        assert await secrets.handler_url(connection, store.keyring, endpoint.gid) == URL
        assert len((await secrets.signing_keys(connection, store.keyring, endpoint.gid)).hmac) == 1
        assert await secrets.handler_url(connection, store.keyring, "ep_none") is None
    async with store.database.writing() as session:
        view = await endpoints.view(session, endpoint.gid, for_change=True)
        assert view is not None
        await endpoints.remove(session, view.endpoint)
    assert await store.count(EndpointSecret) == 0


@pytest.mark.both_databases
async def test_a_watched_message_is_visible_to_its_own_tenant_only(store: Store) -> None:
    tenant, other = await store.tenant("acme"), await store.tenant("globex")
    delivery = await store.delivery(await store.endpoint(tenant), status=DeliveryStatus.RETRYING)
    for asking, settled in ((tenant, False), (other, None)):
        async with TenantScope(store.database, asking).reading() as session:
            assert await handlers.is_settled(session, delivery.message_gid) is settled
            assert await handlers.is_delivered(session, delivery.message_gid) is settled
