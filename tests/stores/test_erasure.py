"""Erasing the content of a message: at once, for good, and nothing else."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from everhook.contracts import DeliveryStatus
from everhook.delivery.inputs_store import InputDefaults, load_inputs
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.publishing.erasure_store import erase_payload, erase_responses, finish_erasures, is_erased, still_to_send
from everhook.pulling.leases import Ack, Request
from everhook.storage.bulk import Bulk
from everhook.storage.tables import Delivery, Message, PayloadErasure, now
from tests.stores import past
from tests.stores.factories import Store, attempt_record
from tests.stores.past import has_response, keep, message_of
from tests.stores.plans import plan_of, reads_whole, recorded
from tests.stores.test_pull_queue import publish, pulled, queue_of

SETTLE = timedelta(minutes=2)


async def erase(store: Store, message: Message) -> bool:
    async with store.database.writing() as session:
        found = await erase_payload(session, message.gid)
    await erase_responses(Bulk(store.database, rows=2), [message.gid])
    return found


async def sent(store: Store, deliveries: int = 1) -> tuple[Message, list[Delivery]]:
    """A message with deliveries that have two attempts each."""
    endpoint = await store.subscribed()
    message = past.message(0)
    rows = [past.delivery(message, endpoint, ended=None) for _ in range(deliveries)]
    await keep(store.database, message, *rows, *(past.attempt(row, number) for row in rows for number in (1, 2)))
    return message, rows


async def test_the_payload_and_all_responses_of_a_message_are_erased_at_once_and_of_no_other_message(
    store: Store,
) -> None:
    message, deliveries = await sent(store, 5)
    other, (untouched,) = await sent(store)
    before = now()
    assert await erase(store, message)
    erased = await message_of(store.database, message)
    assert erased is not None and erased.payload is None
    assert erased.payload_erased_at is not None and before <= erased.payload_erased_at <= now()
    for delivery in deliveries:
        attempts = await store.attempts(delivery)
        assert [has_response(attempt) for attempt in attempts] == [False, False]
        assert [attempt.response_sha256 for attempt in attempts] == ["ab", "ab"]
    kept = await message_of(store.database, other)
    assert kept is not None and kept.payload is not None
    assert all(has_response(attempt) for attempt in await store.attempts(untouched))


async def test_erasing_again_changes_nothing(store: Store) -> None:
    message, _ = await sent(store)
    assert await erase(store, message)
    first = await message_of(store.database, message)
    assert await erase(store, message)
    again = await message_of(store.database, message)
    assert first is not None and again is not None and again.payload_erased_at == first.payload_erased_at
    assert await store.count(PayloadErasure) == 1


@pytest.mark.both_databases
async def test_an_unknown_message_cannot_be_erased(store: Store) -> None:
    assert not await erase(store, past.message(0))
    assert await store.count(PayloadErasure) == 0


@pytest.mark.both_databases
async def test_whether_a_message_is_erased_can_be_asked(store: Store) -> None:
    message, _ = await sent(store)
    async with store.database.reading() as session:
        assert not await is_erased(session, message.gid)
    await erase(store, message)
    async with store.database.reading() as session:
        assert await is_erased(session, message.gid)


@pytest.mark.both_databases
async def test_the_response_of_an_attempt_in_flight_is_erased_once_the_attempt_must_have_settled(store: Store) -> None:
    message, (delivery,) = await sent(store)
    await erase(store, message)
    late = attempt_record(delivery, number=3)
    transcript = Transcript(detail="d", headers=(("server", "x"),), body=b"you sent a: 1")
    await Recorder(store.database).attempt(late, transcript)

    await finish_erasures(Bulk(store.database), SETTLE)
    assert [has_response(attempt) for attempt in await store.attempts(delivery)] == [False, False, True]

    async with store.database.writing() as session:
        await session.execute(update(PayloadErasure).values(requested_at=now() - SETTLE - timedelta(seconds=1)))
    await finish_erasures(Bulk(store.database), SETTLE)
    assert not any(has_response(attempt) for attempt in await store.attempts(delivery))
    assert await store.count(PayloadErasure) == 0


async def finish_later(store: Store) -> None:
    """A pass of retention after the attempts in flight must have settled."""
    async with store.database.writing() as session:
        await session.execute(update(PayloadErasure).values(requested_at=now() - SETTLE - timedelta(seconds=1)))
    await finish_erasures(Bulk(store.database), SETTLE)


@pytest.mark.both_databases
@pytest.mark.usefixtures("background_tasks")
async def test_what_a_consumer_submits_at_the_end_of_a_long_lease_is_erased(store: Store) -> None:
    endpoint, queue = await pulled(store), await queue_of(store.database)
    await publish(store, 1)
    (item,) = (await queue.claim(endpoint, Request("c"))).items
    async with store.database.reading() as session:
        (message,) = (await session.execute(select(Message))).scalars()
        (delivery,) = (await session.execute(select(Delivery))).scalars()
    await erase(store, message)
    await finish_later(store)
    await queue.acknowledge(endpoint, [Ack(str(item.lease), b'{"name":"Jane Doe"}')], None)
    assert [has_response(attempt) for attempt in await store.attempts(delivery)] == [True]
    statements = recorded(store.database)
    await finish_later(store)
    assert [has_response(attempt) for attempt in await store.attempts(delivery)] == [False]
    assert await store.count(PayloadErasure) == 0
    (found,) = [each for each in statements.items() if "delivery.status" in each[0]]
    plan = await plan_of(store.database, *found)
    assert not reads_whole(plan, "delivery"), plan


@pytest.mark.parametrize("status", DeliveryStatus)
async def test_deliveries_of_a_message_that_wait_for_an_attempt_are_known(store: Store, status: DeliveryStatus) -> None:
    message, (delivery,) = await sent(store)
    await sent(store)
    async with store.database.writing() as session:
        await session.execute(update(Delivery).where(col(Delivery.gid) == delivery.gid).values(status=status))
    async with store.database.read_connection() as connection:
        inputs = await load_inputs(connection, InputDefaults(), still_to_send(message.gid), limit=10)
    waiting = {
        DeliveryStatus.SENDING,
        DeliveryStatus.RETRYING,
        DeliveryStatus.PARKED,
        DeliveryStatus.AVAILABLE,
        DeliveryStatus.AWAITING_DECISION,
    }
    assert [input.delivery_gid for input in inputs] == ([delivery.gid] if status in waiting else [])
