"""Operational events become messages on a reserved channel, each once, and never because of themselves."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col
from structlog.testing import capture_logs

from activities.events import EventActivities
from everhook.circuit import store as circuits
from everhook.circuit.machine import Circuit, CircuitState, Hold
from everhook.contracts import DeadLetterReason
from everhook.delivery import store as deliveries
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults
from everhook.health.alerts_store import AlertEvaluator, Limits
from everhook.health.endpoint_alerts import AlertLimits
from everhook.health.endpoint_alerts_store import EndpointAlertEvaluator
from everhook.notifications.events import EVENTS_CHANNEL, EventKind
from everhook.notifications.publisher_store import ONCE_WITHIN, EventPublisher, Published
from everhook.observability.metrics import REGISTRY
from everhook.publishing.store import Acceptor
from everhook.storage.engine import Database
from everhook.storage.event_outbox import record_event
from everhook.storage.tables import (
    DEFAULT_TENANT_GID,
    Delivery,
    Endpoint,
    Message,
    OperationalEvent,
    Receipt,
    ReceiptSeal,
    Tenant,
    now,
)
from tests.stores.factories import Store, moment

OPEN = Circuit(state=CircuitState.OPEN, failures=5, openings=1)


def publisher(database: Database) -> EventPublisher:
    return EventPublisher(database, Acceptor(database, InputDefaults()))


async def publish(store: Store) -> Published:
    return await publisher(store.database).publish_some()


async def listener(store: Store, tenant_gid: str = DEFAULT_TENANT_GID, **subscription: Any) -> Endpoint:
    end = await store.endpoint(tenant_gid)
    await store.subscription(end, EVENTS_CHANNEL, **subscription)
    return end


async def record(store: Store, kind: str = EventKind.DEAD_LETTERED, **about: Any) -> None:
    async with store.database.writing() as session:
        record_event(session, kind, **about)


async def messages(store: Store) -> list[Message]:
    async with store.database.reading() as session:
        found = await session.execute(
            select(Message).where(col(Message.channel) == EVENTS_CHANNEL).order_by(col(Message.gid))
        )
        return list(found.scalars())


async def events_sent(store: Store) -> list[tuple[str, str]]:
    """(kind, endpoint) of every delivery of an event."""
    async with store.database.reading() as session:
        found = await session.execute(
            select(Delivery).where(col(Delivery.channel) == EVENTS_CHANNEL).order_by(col(Delivery.gid))
        )
        return [(row.event_type, row.endpoint_gid) for row in found.scalars()]


async def test_events_are_published_though_alerts_cannot_be_evaluated(store: Store) -> None:
    class Broken(AlertEvaluator):
        async def evaluate(self) -> Sequence[EventKind]:
            raise KeyError("quietSince")

    end = await listener(store)
    await record(store)
    sent: list[NewDelivery] = []

    class Sending(Dispatcher):
        def __init__(self) -> None: ...

        def dispatch(self, deliveries: Iterable[NewDelivery]) -> None:
            sent.extend(deliveries)

    of_endpoints = EndpointAlertEvaluator(store.database, AlertLimits())
    alerts = Broken(store.database, Limits(), of_endpoints)
    activities = EventActivities(publisher(store.database), alerts, Sending())
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(KeyError):
                await activities.publish_events()
    assert [entry["event"] for entry in logs] == ["a pass of operational events failed"]
    assert len(sent) == 1
    assert [endpoint for _, endpoint in await events_sent(store)] == [end.gid]


class Life:
    """An endpoint's circuit, written to the database as its entity does."""

    def __init__(self, store: Store, endpoint: Endpoint) -> None:
        self._store = store
        self._endpoint = endpoint
        self._version = 0

    async def becomes(self, circuit: Circuit) -> None:
        self._version += 1
        async with self._store.database.writing() as session:
            await circuits.project(session, self._endpoint.gid, replace(circuit, version=self._version))

    async def flaps(self) -> None:
        await self.becomes(OPEN)
        await self.becomes(Circuit())


# Publishing


async def test_an_event_becomes_a_message_with_its_deliveries(store: Store) -> None:
    end = await listener(store)
    acme = await store.tenant("acme")
    await record(store, tenant_gid=acme, endpoint_gid="ep_1", delivery_gid="dlv_1", data={"reason": "rejected"})
    published = await publish(store)
    (event,) = await store.events()
    (message,) = await messages(store)
    assert (published.events, [new.input.endpoint_gid for new in published.new]) == (1, [end.gid])
    assert event.published_at is not None and event.message_gid == message.gid
    assert (message.event_type, message.tenant_gid, message.idempotency_key) == (event.kind, acme, event.gid)
    assert message.published_at == event.created_at
    assert message.payload is not None
    assert json.loads(message.payload) == {
        "eventGid": event.gid,
        "kind": "delivery.dead_lettered",
        "occurredAt": event.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "tenant": "acme",
        "endpointGid": "ep_1",
        "deliveryGid": "dlv_1",
        "data": {"reason": "rejected"},
    }


@pytest.mark.both_databases
async def test_each_event_is_published_once_by_concurrent_publishers(store: Store, other_database: Database) -> None:
    await listener(store)
    for _ in range(30):
        await record(store)
    both = publisher(store.database), publisher(other_database)
    published = await asyncio.gather(*(one.publish_some() for _ in range(3) for one in both))
    assert len(await messages(store)) == 30
    assert sum(len(one.new) for one in published) == 30
    assert await publish(store) == Published()


async def test_events_are_published_completely_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that dies before the commit has published nothing, and the next one publishes everything."""
    await listener(store)
    await record(store)

    class Dying(Acceptor):
        async def accept_within(self, *arguments: Any) -> Any:
            await super().accept_within(*arguments)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await EventPublisher(store.database, Dying(store.database, InputDefaults())).publish_some()
    assert (await messages(store), (await store.events())[0].published_at) == ([], None)
    assert len((await publish(store)).new) == 1


@pytest.mark.both_databases
async def test_an_event_without_subscribers_creates_no_message(store: Store) -> None:
    await record(store)
    assert await publish(store) == Published(events=1)
    (event,) = await store.events()
    assert event.published_at is not None
    assert (event.message_gid, await messages(store)) == (None, [])


async def test_a_subscription_chooses_by_kind(store: Store) -> None:
    end = await listener(store, events=["endpoint.*"])
    await record(store)
    await record(store, EventKind.ENDPOINT_DISABLED, endpoint_gid="ep_1")
    await publish(store)
    assert await events_sent(store) == [("endpoint.disabled", end.gid)]


# Who gets an event


async def test_operators_get_all_events_and_tenants_get_their_own(store: Store) -> None:
    acme, globex = await store.tenant("acme"), await store.tenant("globex")
    operator, mine, other = [await listener(store, gid) for gid in (DEFAULT_TENANT_GID, acme, globex)]
    await record(store, tenant_gid=acme)
    await record(store, EventKind.DEAD_LETTERS)
    await publish(store)
    assert set(await events_sent(store)) == {
        ("delivery.dead_lettered", operator.gid),
        ("delivery.dead_lettered", mine.gid),
        ("dead_letters.threshold", operator.gid),
    }
    assert other.gid not in {gid for _, gid in await events_sent(store)}


async def test_nothing_is_reported_about_a_tenant_that_is_being_erased(store: Store) -> None:
    await listener(store)
    acme = await store.tenant("acme")
    await record(store, tenant_gid=acme)
    async with store.database.writing() as session:
        await session.execute(update(Tenant).where(col(Tenant.gid) == acme).values(erasing_since=now()))
    assert await publish(store) == Published(events=1)
    assert await messages(store) == []


# What would feed itself


async def test_the_dead_letter_of_an_event_is_not_reported(store: Store) -> None:
    await listener(store)
    delivery = await store.delivery()
    async with store.database.writing() as session:
        await deliveries.dead_letter(session, delivery.gid, 1, DeadLetterReason.EXHAUSTED, moment(99))
    (new,) = (await publish(store)).new
    async with store.database.writing() as session:
        await deliveries.dead_letter(session, new.input.delivery_gid, 1, DeadLetterReason.EXHAUSTED, moment(99))
    assert len(await store.events()) == 1
    assert await publish(store) == Published()


async def test_events_about_an_endpoint_are_not_sent_to_itself(store: Store) -> None:
    dead, other = await listener(store), await listener(store)
    await Life(store, dead).becomes(OPEN)
    await Life(store, dead).becomes(Circuit(hold=Hold.DISABLED, version=9))
    await publish(store)
    assert {gid for _, gid in await events_sent(store)} == {other.gid}


async def test_a_relapse_is_recorded_and_not_reported_again(store: Store) -> None:
    await listener(store)
    life = Life(store, await store.endpoint())
    await life.becomes(OPEN)
    for openings in range(2, 6):
        await life.becomes(replace(OPEN, state=CircuitState.HALF_OPEN))
        await life.becomes(replace(OPEN, openings=openings))
    await publish(store)
    assert len(await store.events()) == 5
    assert [kind for kind, _ in await events_sent(store)] == ["endpoint.circuit_opened"]


@pytest.mark.both_databases
async def test_two_failing_subscribers_do_not_report_each_other_for_ever(store: Store) -> None:
    one, two = await listener(store), await listener(store)
    lives = Life(store, one), Life(store, two)
    for _ in range(10):
        for life in lives:
            await life.flaps()
        await publish(store)
    assert len(await store.events()) == 40
    assert sorted(await events_sent(store)) == sorted(
        (kind, gid) for kind in ("endpoint.circuit_opened", "endpoint.circuit_closed") for gid in (one.gid, two.gid)
    )


async def test_a_relapse_is_reported_again_after_a_day(store: Store) -> None:
    broken, _ = await listener(store), await listener(store)
    life = Life(store, broken)
    await life.flaps()
    await publish(store)
    async with store.database.writing() as session:
        for event in await store.events():
            row = await session.get_one(OperationalEvent, event.gid)
            row.gid = "evt_" + "0" * 26 if row.kind == EventKind.CIRCUIT_OPENED else row.gid
            row.created_at -= ONCE_WITHIN
            session.add(row)
    await life.flaps()
    await publish(store)
    assert [kind for kind, _ in await events_sent(store)].count("endpoint.circuit_opened") == 2
    assert [kind for kind, _ in await events_sent(store)].count("endpoint.circuit_closed") == 1


async def test_every_relapse_of_an_endpoint_without_event_subscriptions_is_reported(store: Store) -> None:
    end = await listener(store)
    life = Life(store, await store.endpoint())
    for _ in range(3):
        await life.flaps()
    await publish(store)
    assert await events_sent(store) == [("endpoint.circuit_opened", end.gid), ("endpoint.circuit_closed", end.gid)] * 3


async def sealed(store: Store, size: int, *of: Delivery) -> None:
    """Receipts of these deliveries, and the checkpoint over them, at the end of a log that has `size` then."""
    async with store.database.writing() as session:
        for seq, delivery in enumerate(of, size - len(of)):
            session.add(
                Receipt(
                    tenant_gid=DEFAULT_TENANT_GID, delivery_gid=delivery.gid, attempt_gid="", round=1, number=1, jws="",
                    seq=seq,
                )
            )  # fmt: skip
        session.add(ReceiptSeal(tenant_gid=DEFAULT_TENANT_GID, size=size, root=b"", note=""))
        record_event(session, EventKind.CHECKPOINT, tenant_gid=DEFAULT_TENANT_GID, data={"size": size})


@pytest.mark.both_databases
async def test_a_checkpoint_that_covers_only_receipts_of_events_is_not_reported(store: Store) -> None:
    """Otherwise each would make the receipt that causes the next one."""
    end = await listener(store)
    ordinary, event = await store.delivery(), await store.delivery(channel=EVENTS_CHANNEL)
    await sealed(store, 1, ordinary)
    await publish(store)
    await sealed(store, 2, event)
    await publish(store)
    assert await events_sent(store) == [("order.created", event.endpoint_gid), ("receipts.checkpoint", end.gid)]
    await sealed(store, 4, await store.delivery(channel=EVENTS_CHANNEL), await store.delivery())
    assert len((await publish(store)).new) == 1


async def test_an_event_is_not_counted_as_an_accepted_message(store: Store) -> None:
    """`everhook_messages_accepted_total` counts messages that got a 202."""
    await listener(store)
    await record(store)
    before = REGISTRY.get_sample_value("everhook_messages_accepted_total")
    assert len((await publish(store)).new) == 1
    assert REGISTRY.get_sample_value("everhook_messages_accepted_total") == before
