"""What a delivery's workflow is started with when it is started again: it takes up where the row says it was."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col

from everhook.channels import store as channels
from everhook.contracts import (
    AttemptOutcome,
    DeadLetterReason,
    DeliveryInput,
    DeliveryStatus,
    OpenDeadLetter,
    OperatorAction,
    PreviousAttempt,
    Verdict,
)
from everhook.delivery import store as deliveries
from everhook.delivery.inputs_store import InputDefaults, load_delivered, load_input, load_inputs
from everhook.delivery.policy import resolve
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.endpoints import store as endpoints
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, now
from tests.stores.factories import Store, accepted, attempt_record, moment, publication

DEFAULTS = InputDefaults()


async def order_of(database: Database, delivery: Delivery, defaults: InputDefaults = DEFAULTS) -> DeliveryInput:
    async with database.read_connection() as connection:
        input = await load_input(connection, defaults, delivery.gid)
    assert input is not None
    return input


@pytest.mark.parametrize(
    ("row", "attempt"),
    [
        ({"status": DeliveryStatus.ACCEPTED}, 1),
        ({"status": DeliveryStatus.SENDING}, 1),
        # A round that is over and not yet dead-lettered: its last attempt is asked for again, from the record.
        ({"status": DeliveryStatus.SENDING, "attempts": 1}, 1),
        ({"status": DeliveryStatus.SENDING, "attempts": 6}, 6),
        ({"status": DeliveryStatus.RETRYING, "attempts": 0}, 1),
        ({"status": DeliveryStatus.PARKED, "attempts": 0}, 1),
        ({"status": DeliveryStatus.PARKED, "attempts": 3}, 4),
    ],
)
async def test_an_order_takes_up_where_the_row_was(store: Store, row: dict[str, Any], attempt: int) -> None:
    delivery = await store.delivery(round=3, **row)
    input = await order_of(store.database, delivery)
    assert (input.attempt, input.previous, input.round, input.dead_letter) == (attempt, None, 3, None)


async def test_a_delivery_that_waits_for_its_next_attempt_keeps_the_outcome_of_the_last_and_the_date_of_the_next(
    store: Store,
) -> None:
    delivery = await store.delivery(
        status=DeliveryStatus.RETRYING, attempts=2, last_status_code=503, last_error="http_503", due_at=moment(30)
    )
    input = await order_of(store.database, delivery)
    outcome = AttemptOutcome(Verdict.RETRY, status_code=503, error="http_503")
    assert (input.attempt, input.previous) == (2, PreviousAttempt(outcome, moment(30)))


async def test_the_input_of_a_parked_delivery_has_the_time_of_its_parking(store: Store) -> None:
    parked = await store.delivery(status=DeliveryStatus.PARKED, parked_at=moment(9))
    released = await store.delivery(status=DeliveryStatus.ACCEPTED)
    assert (await order_of(store.database, parked)).parked_since == moment(9)
    assert (await order_of(store.database, released)).parked_since is None


@pytest.mark.both_databases
async def test_the_order_of_a_delivered_delivery_names_the_attempt_that_delivered(store: Store) -> None:
    first, other, under_way = await store.delivery(), await store.delivery(), await store.delivery()
    recorder = Recorder(store.database)
    records = {
        row.gid: attempt_record(row, verdict=Verdict.DELIVERED, status_code=202, duration_ms=17)
        for row in (first, other)
    }
    for record in [*records.values(), attempt_record(under_way, next_attempt_at=moment(31))]:
        await recorder.attempt(record, Transcript(), before_workflow=True)
    async with store.database.read_connection() as connection:
        inputs = await load_delivered(connection, DEFAULTS, [first.gid, other.gid, under_way.gid, "dlv_none"])
    assert [input.delivery_gid for input in inputs] == [first.gid, other.gid]
    for input in inputs:
        assert input.is_delivered and input.attempt == 1
        assert input.previous is not None
        outcome = input.previous.outcome
        assert (outcome.attempt_gid, outcome.status_code, outcome.duration_ms) == (
            records[input.delivery_gid].attempt_gid,
            202,
            17,
        )


async def test_a_dead_letter_keeps_its_reason_its_date_and_what_is_left_of_its_retention(store: Store) -> None:
    delivery = await store.delivery(
        status=DeliveryStatus.DEAD_LETTERED,
        reason=DeadLetterReason.REJECTED,
        last_status_code=404,
        dead_lettered_at=moment(0),
        due_at=now() + timedelta(days=3),
    )
    input = await order_of(store.database, delivery)
    assert input.dead_letter == OpenDeadLetter(DeadLetterReason.REJECTED, moment(0), 404)
    assert timedelta(days=2, hours=23) < input.dead_letter_retention <= timedelta(days=3)


async def test_a_dead_letter_past_its_retention_has_none_left(store: Store) -> None:
    delivery = await store.delivery(
        status=DeliveryStatus.DEAD_LETTERED,
        reason=DeadLetterReason.REJECTED,
        dead_lettered_at=moment(0),
        due_at=now() - timedelta(days=3),
    )
    assert (await order_of(store.database, delivery)).dead_letter_retention == timedelta()


async def test_the_loaded_input_of_an_accepted_delivery_equals_its_first_input(store: Store) -> None:
    await store.channel(policy={"preset": "brisk"})
    end = await store.endpoint(await store.tenant("acme"), policy={"jitter": 0.5})
    await store.subscription(end)
    (first,) = accepted(await store.acceptor().accept(publication())).new
    async with store.database.read_connection() as connection:
        assert await load_input(connection, DEFAULTS, first.input.delivery_gid) == first.input


@pytest.mark.both_databases
async def test_recorded_attempts_lead_to_the_next_order(store: Store) -> None:
    delivery, recorder = await store.delivery(), Recorder(store.database)
    await recorder.attempt(attempt_record(delivery, 1, next_attempt_at=moment(31)), Transcript())
    waiting = await order_of(store.database, delivery)
    assert (waiting.attempt, waiting.previous is not None) == (1, True)
    await recorder.attempt(attempt_record(delivery, 2, verdict=Verdict.REJECTED, status_code=404), Transcript())
    ended = await order_of(store.database, delivery)
    assert (ended.attempt, ended.previous) == (2, None)
    async with store.database.writing() as session:
        await deliveries.dead_letter(session, delivery.gid, 1, DeadLetterReason.REJECTED, moment(99))
    dead = await order_of(store.database, delivery)
    assert dead.dead_letter is not None
    assert (dead.dead_letter.reason, dead.dead_letter.status_code) == (DeadLetterReason.REJECTED, 404)
    async with store.database.writing() as session:
        await deliveries.open_round(session, delivery.gid, 1, OperatorAction("ada", ""))
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
    input = await order_of(store.database, delivery)
    assert input.policy == resolve({"preset": "patient", "timeoutSeconds": 2})
    assert input.rate_limit == 1.5


async def test_a_delivery_outlives_its_channel_and_its_endpoint(store: Store) -> None:
    end = await store.subscribed()
    delivery = await store.delivery(end)
    async with store.database.writing() as session:
        await endpoints.remove(session, end)
        assert await channels.remove(session, "orders")
    input = await order_of(store.database, delivery)
    assert (input.channel, input.policy) == ("orders", resolve())


async def test_an_unknown_delivery_has_no_input(database: Database) -> None:
    async with database.read_connection() as connection:
        assert await load_input(connection, DEFAULTS, "dlv_none") is None


async def test_the_oldest_orders_come_first_and_no_more_than_asked_for(store: Store) -> None:
    rows = await store.deliveries(5)
    async with store.database.read_connection() as connection:
        inputs = await load_inputs(connection, DEFAULTS, [col(Delivery.status) == DeliveryStatus.ACCEPTED], limit=3)
    assert [input.delivery_gid for input in inputs] == [row.gid for row in rows[:3]]


async def test_settings_are_in_every_order(store: Store) -> None:
    settings = Settings(park_check_seconds=7, dead_letter_retention_days=2)
    defaults = InputDefaults.from_settings(settings)
    input = await order_of(store.database, await store.delivery(), defaults)
    assert (input.park_check, input.dead_letter_retention) == (timedelta(seconds=7), timedelta(days=2))
