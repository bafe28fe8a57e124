"""What a delivery's workflow is started with when it is started again: it takes up where the row says it was."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryOrder, DeliveryStatus, OpenDeadLetter, OperatorNote, Verdict
from everhook.policy import resolve
from everhook.settings import Settings
from everhook.storage import channels, deliveries, endpoints
from everhook.storage.attempts import Recorder, Transcript
from everhook.storage.engine import Database
from everhook.storage.orders import OrderDefaults, load_order, load_orders
from everhook.storage.tables import Delivery, now
from tests.everhook.storage.factories import Store, accepted, attempt_record, moment, publication

DEFAULTS = OrderDefaults()


async def order_of(database: Database, delivery: Delivery, defaults: OrderDefaults = DEFAULTS) -> DeliveryOrder:
    async with database.read_connection() as connection:
        order = await load_order(connection, defaults, delivery.gid)
    assert order is not None
    return order


@pytest.mark.parametrize(
    ("row", "attempt", "express"),
    [
        ({"status": DeliveryStatus.ACCEPTED}, 1, True),
        ({"status": DeliveryStatus.SENDING}, 1, False),
        # A round that is over and not yet dead-lettered: its last attempt is asked for again, from the record.
        ({"status": DeliveryStatus.SENDING, "attempts": 1}, 1, False),
        ({"status": DeliveryStatus.SENDING, "attempts": 6}, 6, False),
        ({"status": DeliveryStatus.RETRYING, "attempts": 1}, 2, False),
        ({"status": DeliveryStatus.RETRYING, "attempts": 5}, 6, False),
        ({"status": DeliveryStatus.RETRYING, "attempts": 0}, 1, False),
        ({"status": DeliveryStatus.PARKED, "attempts": 0}, 1, False),
        ({"status": DeliveryStatus.PARKED, "attempts": 3}, 4, False),
    ],
)
async def test_an_order_takes_up_where_the_row_was(
    store: Store, row: dict[str, Any], attempt: int, express: bool
) -> None:
    delivery = await store.delivery(round=3, **row)
    order = await order_of(store.database, delivery)
    assert (order.attempt, order.express, order.round, order.dead_letter) == (attempt, express, 3, None)


async def test_a_dead_letter_keeps_its_reason_its_date_and_what_is_left_of_its_retention(store: Store) -> None:
    delivery = await store.delivery(
        status=DeliveryStatus.DEAD_LETTERED,
        reason=DeadLetterReason.REJECTED,
        last_status_code=404,
        dead_lettered_at=moment(0),
        due_at=now() + timedelta(days=3),
    )
    order = await order_of(store.database, delivery)
    assert order.dead_letter == OpenDeadLetter(DeadLetterReason.REJECTED, moment(0), 404)
    assert timedelta(days=2, hours=23) < order.dead_letter_retention <= timedelta(days=3)


async def test_a_dead_letter_past_its_retention_has_none_left(store: Store) -> None:
    delivery = await store.delivery(
        status=DeliveryStatus.DEAD_LETTERED,
        reason=DeadLetterReason.REJECTED,
        dead_lettered_at=moment(0),
        due_at=now() - timedelta(days=3),
    )
    assert (await order_of(store.database, delivery)).dead_letter_retention == timedelta()


async def test_the_order_of_an_accepted_delivery_is_the_one_it_was_first_given(store: Store) -> None:
    await store.channel(policy={"preset": "brisk"})
    end = await store.endpoint(await store.tenant("acme"), policy={"jitter": 0.5})
    await store.subscription(end)
    (first,) = accepted(await store.acceptor().accept(publication())).orders
    async with store.database.read_connection() as connection:
        assert await load_order(connection, DEFAULTS, first.delivery_gid) == first


async def test_recorded_attempts_lead_to_the_next_order(store: Store) -> None:
    delivery, recorder = await store.delivery(), Recorder(store.database)
    await recorder.attempt(attempt_record(delivery, 1, next_attempt_at=moment(31)), Transcript())
    assert (await order_of(store.database, delivery)).attempt == 2
    await recorder.attempt(attempt_record(delivery, 2, verdict=Verdict.REJECTED, status_code=404), Transcript())
    assert (await order_of(store.database, delivery)).attempt == 2
    async with store.database.writing() as session:
        await deliveries.dead_letter(session, delivery.gid, 1, DeadLetterReason.REJECTED, moment(99))
    dead = await order_of(store.database, delivery)
    assert dead.dead_letter is not None
    assert (dead.dead_letter.reason, dead.dead_letter.status_code) == (DeadLetterReason.REJECTED, 404)
    async with store.database.writing() as session:
        await deliveries.open_round(session, delivery.gid, 1, OperatorNote("ada", ""))
    replayed = await order_of(store.database, delivery)
    assert (replayed.round, replayed.attempt, replayed.dead_letter) == (2, 1, None)


async def test_an_order_has_the_policy_as_it_is_now(store: Store) -> None:
    end = await store.subscribed()
    delivery = await store.delivery(end)
    async with store.database.writing() as session:
        await endpoints.change(session, end, {"policy": {"timeoutSeconds": 2}, "rate_limit": 1.5})
        channel = await channels.get(session, "orders")
        assert channel is not None
        await channels.set_policy(session, channel, {"preset": "patient", "timeoutSeconds": 9})
    order = await order_of(store.database, delivery)
    assert order.policy == resolve({"preset": "patient", "timeoutSeconds": 2})
    assert (order.rate_limit, order.express) == (1.5, False)


async def test_a_delivery_outlives_its_channel_and_its_endpoint(store: Store) -> None:
    end = await store.subscribed()
    delivery = await store.delivery(end)
    async with store.database.writing() as session:
        await endpoints.remove(session, end)
        assert await channels.remove(session, "orders")
    order = await order_of(store.database, delivery)
    assert (order.channel, order.policy) == ("orders", resolve())


async def test_there_is_no_order_for_no_delivery(database: Database) -> None:
    async with database.read_connection() as connection:
        assert await load_order(connection, DEFAULTS, "dlv_none") is None


async def test_the_oldest_orders_come_first_and_no_more_than_asked_for(store: Store) -> None:
    rows = await store.deliveries(5)
    async with store.database.read_connection() as connection:
        orders = await load_orders(connection, DEFAULTS, [col(Delivery.status) == DeliveryStatus.ACCEPTED], limit=3)
    assert [order.delivery_gid for order in orders] == [row.gid for row in rows[:3]]


async def test_settings_are_in_every_order(store: Store) -> None:
    settings = Settings(express=False, park_check_seconds=7, dead_letter_retention_days=2)
    defaults = OrderDefaults.from_settings(settings)
    order = await order_of(store.database, await store.delivery(), defaults)
    assert (order.express, order.park_check, order.dead_letter_retention) == (
        False,
        timedelta(seconds=7),
        timedelta(days=2),
    )
