"""Thresholds: the recorded events are the state, and each crossing is reported once."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from everhook.contracts import DeliveryStatus
from everhook.health.alerts_store import AlertEvaluator, Limits
from everhook.health.backlog_store import backlog
from everhook.health.endpoint_alerts import AlertLimits
from everhook.health.endpoint_alerts_store import EndpointAlertEvaluator
from everhook.notifications.events import EventKind
from everhook.storage.tables import Delivery, EndpointMinute, PullItem, now
from tests.stores.factories import Store
from tests.stores.test_pull_queue import change_queue, publish, pulled

LIMITS = Limits(
    dead_letters=10,
    undispatched=timedelta(minutes=2),
    success_rate=0.9,
    success_window=timedelta(minutes=5),
    success_attempts=20,
)


class Unwatched(EndpointAlertEvaluator):
    """Single endpoints are not evaluated here."""

    async def evaluate(self, moment: datetime | None = None) -> int:
        return 0


async def look(store: Store, limits: Limits = LIMITS) -> list[EventKind]:
    unwatched = Unwatched(store.database, AlertLimits())
    return list(await AlertEvaluator(store.database, limits, unwatched).evaluate())


async def data(store: Store) -> list[dict[str, Any]]:
    return [event.data for event in await store.events()]


async def change_all(store: Store, **values: Any) -> None:
    async with store.database.writing() as session:
        await session.execute(update(Delivery).values(**values))


async def minute(store: Store, minutes_ago: int, **counts: int) -> None:
    end = await store.endpoint()
    at = (now() - timedelta(minutes=minutes_ago)).replace(second=0, microsecond=0)
    async with store.database.writing() as session:
        session.add(EndpointMinute(endpoint_gid=end.gid, minute=at, tenant_gid=end.tenant_gid, **counts))


async def test_nothing_is_reported_below_the_thresholds(store: Store) -> None:
    await store.deliveries(9, status=DeliveryStatus.DEAD_LETTERED, dispatched_at=now())
    await minute(store, 1, delivered=100)
    assert await look(store) == []
    assert await store.events() == []


async def test_dead_letters_are_reported_at_the_threshold_and_again_only_after_there_were_fewer(store: Store) -> None:
    rows = await store.deliveries(10, status=DeliveryStatus.DEAD_LETTERED, dispatched_at=now())
    assert await look(store) == [EventKind.DEAD_LETTERS]
    assert await look(store) == []
    await store.deliveries(90, status=DeliveryStatus.DEAD_LETTERED, dispatched_at=now())
    assert await look(store) == []
    await change_all(store, status=DeliveryStatus.DISCARDED)
    assert await look(store) == [EventKind.DEAD_LETTERS]
    async with store.database.writing() as session:
        gids = [row.gid for row in rows]
        await session.execute(
            update(Delivery).where(col(Delivery.gid).in_(gids)).values(status=DeliveryStatus.DEAD_LETTERED)
        )
    assert await look(store) == [EventKind.DEAD_LETTERS]
    assert await data(store) == [
        {"state": "raised", "value": 10.0, "threshold": 10},
        {"state": "cleared", "value": 0.0, "threshold": 10},
        {"state": "raised", "value": 10.0, "threshold": 10},
    ]


async def test_a_low_success_rate_is_reported_once_there_are_enough_attempts(store: Store) -> None:
    await minute(store, 1, retried=10, rejected=9)
    await minute(store, 60, retried=1_000)
    assert await look(store) == [], "19 attempts within the window are too few to say"
    await minute(store, 1, delivered=1)
    assert await look(store) == [EventKind.SUCCESS_RATE]
    await minute(store, 1, delivered=200)
    assert await look(store) == []
    await minute(store, 1, delivered=200)
    assert await look(store) == [EventKind.SUCCESS_RATE]
    assert [(one["state"], one["threshold"]) for one in await data(store)] == [("raised", 0.9), ("cleared", 0.9)]
    assert (await data(store))[0]["value"] == pytest.approx(0.05)


async def test_an_old_delivery_that_was_not_started_is_reported(store: Store) -> None:
    await store.delivery(dispatched_at=now(), gid="dlv_" + "0" * 26)
    await store.delivery()
    assert await look(store) == []
    await change_all(store, dispatched_at=None)
    assert await look(store) == [EventKind.UNDISPATCHED]
    await change_all(store, dispatched_at=now())
    assert await look(store) == [EventKind.UNDISPATCHED]
    assert [one["state"] for one in await data(store)] == ["raised", "cleared"]


@pytest.mark.both_databases
async def test_a_threshold_of_zero_is_off(store: Store) -> None:
    await store.deliveries(200, status=DeliveryStatus.DEAD_LETTERED)
    await store.delivery(gid="dlv_" + "0" * 26)
    await minute(store, 1, retried=500)
    off = Limits(dead_letters=0, undispatched=timedelta(), success_rate=0)
    assert await look(store, off) == []
    assert set(await look(store)) == {EventKind.DEAD_LETTERS, EventKind.SUCCESS_RATE, EventKind.UNDISPATCHED}


@pytest.mark.both_databases
async def test_an_endpoint_whose_deliveries_no_consumer_takes_is_reported_once_in_each_direction(store: Store) -> None:
    endpoint = await pulled(store)
    await publish(store, 2)
    early = now() - timedelta(minutes=11)
    assert await look(store) == []
    await change_queue(store, queued_at=early)
    assert await look(store) == []  # a consumer may just be about to take them
    await change_queue(store, available_at=now() - timedelta(minutes=6))
    assert await look(store) == [EventKind.UNCLAIMED]
    assert await look(store) == []
    await change_queue(store, consumer="worker-3", lease_until=now() + timedelta(minutes=1))
    assert await look(store) == [EventKind.UNCLAIMED]
    assert [(event.endpoint_gid, event.data["state"]) for event in await store.events()] == [
        (endpoint.gid, "raised"),
        (endpoint.gid, "cleared"),
    ]


async def test_an_endpoint_whose_consumers_are_slow_is_not_unclaimed(store: Store) -> None:
    endpoint = await pulled(store)
    await publish(store, 1)
    await change_queue(store, queued_at=now() - timedelta(minutes=30), available_at=now() - timedelta(minutes=30))
    async with store.database.writing() as session:
        session.add(
            EndpointMinute(
                endpoint_gid=endpoint.gid, minute=now().replace(second=0), tenant_gid=endpoint.tenant_gid, delivered=1
            )
        )
    assert await look(store) == []


async def test_the_queues_are_counted_by_state(store: Store) -> None:
    await pulled(store)
    gids = await publish(store, 3)
    changes: list[dict[str, Any]] = [{"consumer": "a"}, {"available_at": now() + timedelta(hours=1)}]
    for gid, values in zip(gids, changes, strict=False):
        async with store.database.writing() as session:
            await session.execute(update(PullItem).where(col(PullItem.delivery_gid) == gid).values(**values))
    async with store.database.reading() as session:
        found = (await backlog(session)).pulls
    assert found.counts == {"available": 1, "waiting": 1, "leased": 1}
    assert found.oldest is not None
