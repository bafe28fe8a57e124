"""A delivery's steps outside of its attempts: each may run twice, and then changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorAction
from everhook.delivery import overdue_store, parked_store
from everhook.delivery import store as deliveries
from everhook.delivery.overdue_store import Overdue, Position, Window
from everhook.delivery.parked_store import Parked
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, now
from tests.stores.factories import Store, moment

NOTE = OperatorAction("ada", "fixed the receiver")
OPEN = [
    DeliveryStatus.ACCEPTED,
    DeliveryStatus.SENDING,
    DeliveryStatus.RETRYING,
    DeliveryStatus.PARKED,
]
HOUR = timedelta(hours=1)

Step = Callable[[Store, str], Awaitable[None]]


async def dead_letter(store: Store, gid: str) -> None:
    async with store.database.writing() as session:
        await deliveries.dead_letter(session, gid, 1, DeadLetterReason.EXHAUSTED, moment(99))


async def open_round(store: Store, gid: str) -> None:
    async with store.database.writing() as session:
        await deliveries.open_round(session, gid, 1, NOTE)


async def discard(store: Store, gid: str) -> None:
    async with store.database.writing() as session:
        await deliveries.discard(session, gid, NOTE)


async def take(store: Store, delivery: Delivery, *steps: Step) -> Delivery:
    for step in steps:
        await step(store, delivery.gid)
    return await store.read(delivery)


def dead(**changes: Any) -> dict[str, Any]:
    return {
        "status": DeliveryStatus.DEAD_LETTERED,
        "reason": DeadLetterReason.EXHAUSTED,
        "attempts": 6,
        "dead_lettered_at": moment(10),
        "due_at": moment(99),
    } | changes


@pytest.mark.parametrize("status", OPEN)
async def test_a_dead_letter_says_why_and_until_when_it_waits(store: Store, status: DeliveryStatus) -> None:
    before = now()
    delivery = await store.delivery(status=status, parked_at=moment())
    row = await take(store, delivery, dead_letter)
    assert (row.status, row.reason, row.due_at) == (
        DeliveryStatus.DEAD_LETTERED,
        DeadLetterReason.EXHAUSTED,
        moment(99),
    )
    assert row.dead_lettered_at is not None and row.dead_lettered_at >= before
    assert (row.parked_at, row.completed_at) == (None, None)


async def test_a_dead_letter_creates_exactly_one_event(store: Store) -> None:
    delivery = await store.delivery()
    first = await take(store, delivery, dead_letter)
    assert (await take(store, delivery, dead_letter, dead_letter)).model_dump() == first.model_dump()
    (event,) = await store.events()
    assert (event.kind, event.delivery_gid, event.endpoint_gid, event.tenant_gid) == (
        "delivery.dead_lettered",
        delivery.gid,
        delivery.endpoint_gid,
        delivery.tenant_gid,
    )
    assert event.data == {
        "reason": "exhausted",
        "round": 1,
        "messageGid": delivery.message_gid,
        "channelName": "orders",
        "type": "order.created",
        "statusCode": None,
        "error": None,
    }


@pytest.mark.both_databases
async def test_dead_lettering_returns_since_when_the_delivery_is_a_dead_letter(store: Store) -> None:
    async def again(round_: int) -> datetime | None:
        async with store.database.writing() as session:
            dead = await deliveries.dead_letter(session, delivery.gid, round_, DeadLetterReason.EXHAUSTED, moment(99))
        return dead.at

    delivery = await store.delivery()
    first = await again(1)
    assert first is not None
    assert (await again(1), await again(2)) == (first, None)
    assert (await store.read(delivery)).dead_lettered_at == first
    await take(store, delivery, open_round)
    assert await again(1) is None


@pytest.mark.both_databases
async def test_dead_lettering_ten_times_at_once_creates_one_event(store: Store) -> None:
    delivery = await store.delivery()
    await asyncio.gather(*(take(store, delivery, dead_letter) for _ in range(10)))
    assert len(await store.events()) == 1


async def test_each_dead_lettered_round_creates_an_event(store: Store) -> None:
    async def again(store: Store, gid: str) -> None:
        async with store.database.writing() as session:
            await deliveries.dead_letter(session, gid, 2, DeadLetterReason.REJECTED, moment(99))

    row = await take(store, await store.delivery(), dead_letter, open_round, again)
    assert (row.status, row.round, row.reason) == (DeliveryStatus.DEAD_LETTERED, 2, DeadLetterReason.REJECTED)
    assert [event.data["round"] for event in await store.events()] == [1, 2]


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED])
@pytest.mark.parametrize("step", [dead_letter, open_round])
async def test_a_settled_delivery_is_neither_dead_lettered_nor_replayed(
    store: Store, status: DeliveryStatus, step: Step
) -> None:
    delivery = await store.delivery(status=status)
    before = await store.read(delivery)
    assert (await take(store, delivery, step)).model_dump() == before.model_dump()
    assert await store.events() == []


async def test_an_earlier_rounds_dead_letter_does_not_end_the_present_round(store: Store) -> None:
    row = await take(store, await store.delivery(round=2, status=DeliveryStatus.RETRYING), dead_letter)
    assert row.status is DeliveryStatus.RETRYING
    assert await store.events() == []


async def test_a_replay_opens_the_next_round_and_says_who_wanted_it(store: Store) -> None:
    before = now()
    row = await take(store, await store.delivery(**dead()), open_round)
    assert (row.status, row.round, row.attempts) == (DeliveryStatus.SENDING, 2, 0)
    assert (row.reason, row.dead_lettered_at) == (None, None)
    assert (row.decided_by, row.decided_why) == ("ada", "fixed the receiver")
    assert row.due_at is not None and before <= row.due_at <= now()


@pytest.mark.both_databases
async def test_a_replay_asked_for_twice_opens_one_round(store: Store) -> None:
    delivery = await store.delivery(**dead())
    first = await take(store, delivery, open_round)
    assert (await take(store, delivery, open_round, open_round)).model_dump() == first.model_dump()


@pytest.mark.parametrize("status", [*OPEN, DeliveryStatus.DEAD_LETTERED])
async def test_a_discard_ends_a_delivery_and_says_who_wanted_it(store: Store, status: DeliveryStatus) -> None:
    row = await take(store, await store.delivery(status=status, parked_at=moment()), discard)
    assert (row.status, row.due_at, row.parked_at) == (DeliveryStatus.DISCARDED, None, None)
    assert row.completed_at is not None
    assert (row.decided_by, row.decided_why) == ("ada", "fixed the receiver")


@pytest.mark.both_databases
async def test_a_discard_run_twice_changes_nothing_more(store: Store) -> None:
    delivery = await store.delivery(**dead())
    first = await take(store, delivery, discard)
    assert (await take(store, delivery, discard)).model_dump() == first.model_dump()


async def test_a_delivered_delivery_cannot_be_discarded(store: Store) -> None:
    row = await take(store, await store.delivery(status=DeliveryStatus.DELIVERED), discard)
    assert (row.status, row.decided_by) == (DeliveryStatus.DELIVERED, None)


# Dispatch


@pytest.mark.parametrize(
    ("status", "then"),
    [
        (DeliveryStatus.ACCEPTED, DeliveryStatus.SENDING),
        *((status, status) for status in DeliveryStatus if status is not DeliveryStatus.ACCEPTED),
    ],
)
async def test_a_confirmed_start_makes_an_accepted_delivery_sending_and_no_other(
    store: Store, database: Database, status: DeliveryStatus, then: DeliveryStatus
) -> None:
    delivery = await store.delivery(status=status)
    async with database.write_connection() as connection:
        await deliveries.mark_dispatched(connection, [(delivery.gid, 1)])
    row = await store.read(delivery)
    assert row.status is then
    assert row.dispatched_at is not None


@pytest.mark.both_databases
async def test_a_start_is_confirmed_once(store: Store, database: Database) -> None:
    delivery = await store.delivery(dispatched_at=moment(1), status=DeliveryStatus.ACCEPTED)
    async with database.write_connection() as connection:
        await deliveries.mark_dispatched(connection, [(delivery.gid, 1)])
    row = await store.read(delivery)
    assert (row.dispatched_at, row.status) == (moment(1), DeliveryStatus.ACCEPTED)


async def test_the_undispatched_are_counted_up_to_a_limit(store: Store, database: Database) -> None:
    end = await store.subscribed()
    await store.deliveries(2, end)
    await store.delivery(end, status=DeliveryStatus.RETRYING)
    await store.delivery(end, dispatched_at=moment())
    await store.delivery(end, status=DeliveryStatus.PARKED)
    async with database.read_connection() as connection:
        assert await deliveries.count_undispatched(connection, 100) == 3
        assert await deliveries.count_undispatched(connection, 2) == 2


@pytest.mark.both_databases
async def test_the_undispatched_are_counted_with_the_time_of_the_oldest(store: Store, database: Database) -> None:
    end = await store.subscribed()
    async with database.read_connection() as connection:
        assert await deliveries.oldest_undispatched(connection, 100) == (0, None)
    for second in (3, 2, 4):
        await store.delivery(end, accepted_at=moment(second))
    await store.delivery(end, accepted_at=moment(1), dispatched_at=moment(1))
    async with database.read_connection() as connection:
        assert await deliveries.oldest_undispatched(connection, 100) == (3, moment(2))
        assert (await deliveries.oldest_undispatched(connection, 2))[0] == 2


async def window(database: Database, after: Position | None = None, **chosen: Any) -> Window:
    """What is found by a reconciler that takes a workflow for lost after 50 s."""
    async with database.read_connection() as connection:
        return await overdue_store.overdue_window(connection, moment(50), after, **({"rows": 10, "share": 10} | chosen))


async def test_the_reconciler_finds_what_was_never_started_and_what_may_have_lost_its_workflow(
    store: Store, database: Database
) -> None:
    end = await store.subscribed()
    later = now() + HOUR
    never_started = await store.delivery(end, due_at=moment(99))
    failed = await store.delivery(end, due_at=moment(98), status=DeliveryStatus.RETRYING, attempts=1)
    window_over = await store.delivery(end, due_at=moment(97), status=DeliveryStatus.PARKED)
    lost = await store.delivery(end, due_at=moment(49), dispatched_at=moment())
    await store.delivery(end, due_at=moment(50), dispatched_at=moment())
    await store.delivery(end, due_at=later)
    await store.delivery(end, due_at=later, status=DeliveryStatus.PARKED)
    await store.delivery(end, due_at=None, status=DeliveryStatus.DELIVERED, dispatched_at=moment())
    assert (await window(database)).overdue == [
        Overdue(lost.gid, end.gid, has_workflow=True),
        Overdue(window_over.gid, end.gid, has_workflow=False),
        Overdue(failed.gid, end.gid, has_workflow=False),
        Overdue(never_started.gid, end.gid, has_workflow=False),
    ]


@pytest.mark.both_databases
async def test_the_reconciler_leaves_out_endpoints_of_other_shares(store: Store, database: Database) -> None:
    ends = [await store.endpoint(gid=f"ep_{n}{ending}") for n, ending in enumerate("07az")]
    rows = [await store.delivery(end, due_at=moment(n)) for n, end in enumerate(ends)]
    found = await window(database, endings="7z")
    assert [one.gid for one in found.overdue] == [rows[1].gid, rows[3].gid]


@pytest.mark.both_databases
async def test_endpoints_take_turns_within_a_window_and_the_next_window_follows(
    store: Store, database: Database
) -> None:
    """However many deliveries of one endpoint are overdue, another gets its share."""
    busy, quiet = await store.subscribed(), await store.endpoint()
    busy_rows = [await store.delivery(busy, due_at=moment(n)) for n in range(5)]
    quiet_rows = [await store.delivery(quiet, due_at=moment(4 + n)) for n in range(2)]
    first = await window(database, rows=6, share=2)
    assert [one.gid for one in first.overdue] == [busy_rows[0].gid, quiet_rows[0].gid, busy_rows[1].gid]
    assert first.end is not None
    second = await window(database, first.end, rows=6, share=2)
    assert ([one.gid for one in second.overdue], second.end) == ([quiet_rows[1].gid], None)


async def test_a_deferred_delivery_is_checked_again_later_unless_it_is_settled(
    store: Store, database: Database
) -> None:
    overdue = await store.delivery()
    over = await store.delivery(due_at=None, status=DeliveryStatus.DELIVERED)
    before = now()
    async with database.write_connection() as connection:
        await overdue_store.defer(connection, [overdue.gid, over.gid], HOUR)
    row = await store.read(overdue)
    assert row.due_at is not None and before + HOUR <= row.due_at <= now() + HOUR
    assert (row.status, row.dispatched_at) == (DeliveryStatus.ACCEPTED, None)
    assert (await store.read(over)).due_at is None


@pytest.mark.both_databases
async def test_a_deferral_keeps_the_due_date_of_a_delivery_that_was_dead_lettered_meanwhile(
    store: Store, database: Database
) -> None:
    """A dead letter that were due at once would be discarded as one at the end of its retention."""
    delivery = await store.delivery(due_at=moment(), dispatched_at=moment())
    until = now() + 30 * 24 * HOUR
    async with database.writing() as session:
        await deliveries.dead_letter(session, delivery.gid, 1, DeadLetterReason.EXHAUSTED, until)
    async with database.write_connection() as connection:
        await overdue_store.defer(connection, [delivery.gid], HOUR)
    assert (await store.read(delivery)).due_at == until


@pytest.mark.both_databases
async def test_parked_deliveries_past_their_window_are_deferred_only_without_a_workflow_at_a_paused_endpoint(
    store: Store, database: Database
) -> None:
    paused, broken = await store.subscribed(), await store.subscribed()
    await store.circuit(paused, hold=Hold.PAUSED)
    await store.circuit(broken, state=CircuitState.OPEN)
    later = now() + HOUR
    waiting = await store.delivery(paused, status=DeliveryStatus.PARKED)
    others = [
        await store.delivery(paused, status=DeliveryStatus.PARKED, due_at=later),
        await store.delivery(paused, status=DeliveryStatus.PARKED, dispatched_at=moment()),
        await store.delivery(paused, status=DeliveryStatus.ACCEPTED),
        await store.delivery(broken, status=DeliveryStatus.PARKED),
    ]
    before = now()
    async with database.write_connection() as connection:
        assert await overdue_store.defer_paused(connection, HOUR, 10) == 1
        assert await overdue_store.defer_paused(connection, HOUR, 10) == 0
    row = await store.read(waiting)
    assert row.due_at is not None and before + HOUR <= row.due_at <= now() + HOUR
    assert (row.status, row.dispatched_at) == (DeliveryStatus.PARKED, None)
    assert [(await store.read(other)).due_at for other in others] == [later, moment(), moment(), moment()]


# Parked deliveries


@pytest.mark.both_databases
async def test_the_oldest_parked_of_an_endpoint_come_first(store: Store, database: Database) -> None:
    end, other = await store.subscribed(), await store.subscribed()
    rows = await store.deliveries(4, end, status=DeliveryStatus.PARKED)
    await store.delivery(other, status=DeliveryStatus.PARKED)
    await store.delivery(end, status=DeliveryStatus.RETRYING)
    started = await store.delivery(end, status=DeliveryStatus.PARKED, dispatched_at=moment())
    async with database.read_connection() as connection:
        assert await parked_store.oldest_parked(connection, end.gid, 3) == [
            Parked(row.gid, has_workflow=False) for row in rows[:3]
        ]
        found = await parked_store.oldest_parked(connection, end.gid, 9)
        assert found[4:] == [Parked(started.gid, has_workflow=True)]


async def test_the_parked_of_an_endpoint_are_counted(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = await store.subscribed()
    await store.deliveries(4, end, status=DeliveryStatus.PARKED)
    await store.delivery(await store.subscribed(), status=DeliveryStatus.PARKED)
    await store.delivery(end, status=DeliveryStatus.RETRYING)
    async with database.read_connection() as connection:
        assert await parked_store.count_parked(connection, end.gid) == 4
        monkeypatch.setattr(parked_store, "COUNTED_PARKED", 3)
        assert await parked_store.count_parked(connection, end.gid) == 3


@pytest.mark.both_databases
async def test_parked_deliveries_without_a_workflow_are_accepted_again(store: Store, database: Database) -> None:
    delivery = await store.delivery(status=DeliveryStatus.PARKED, parked_at=moment())
    before = now()
    async with database.write_connection() as connection:
        assert await parked_store.accept_again(connection, [delivery.gid], moment(1), HOUR) == {delivery.gid}
    row = await store.read(delivery)
    assert (row.status, row.parked_at, row.dispatched_at) == (DeliveryStatus.ACCEPTED, None, None)
    assert row.due_at is not None and before + HOUR <= row.due_at <= now() + HOUR


@pytest.mark.parametrize(
    "changes",
    [
        {"parked_at": moment(2)},
        {"dispatched_at": moment()},
        {"status": DeliveryStatus.ACCEPTED},
        {"status": DeliveryStatus.DEAD_LETTERED},
        {"status": DeliveryStatus.DELIVERED},
    ],
    ids=["parked again", "started", "accepted again", "dead-lettered", "delivered"],
)
async def test_a_parked_delivery_that_changed_meanwhile_is_not_accepted_again(
    store: Store, database: Database, changes: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"status": DeliveryStatus.PARKED, "parked_at": moment()}
    delivery = await store.delivery(**(fields | changes))
    before = (await store.read(delivery)).model_dump()
    async with database.write_connection() as connection:
        assert await parked_store.accept_again(connection, [delivery.gid], moment(1), HOUR) == set()
    assert (await store.read(delivery)).model_dump() == before


@pytest.mark.both_databases
async def test_the_released_are_due_at_once(store: Store, database: Database) -> None:
    delivery = await store.delivery(status=DeliveryStatus.PARKED, parked_at=moment(), attempts=2)
    before = now()
    async with database.write_connection() as connection:
        await parked_store.mark_released(connection, [delivery.gid], moment(1))
    row = await store.read(delivery)
    assert (row.status, row.parked_at, row.attempts) == (DeliveryStatus.RETRYING, None, 2)
    assert row.due_at is not None and row.due_at >= before


@pytest.mark.parametrize(
    ("status", "parked_at"),
    [
        (DeliveryStatus.PARKED, moment(2)),
        (DeliveryStatus.DELIVERED, moment(0)),
        (DeliveryStatus.DEAD_LETTERED, moment(0)),
    ],
    ids=["parked again", "delivered meanwhile", "dead-lettered meanwhile"],
)
async def test_a_parked_delivery_that_changed_meanwhile_is_not_marked_as_released(
    store: Store, database: Database, status: DeliveryStatus, parked_at: Any
) -> None:
    delivery = await store.delivery(status=status, parked_at=parked_at)
    before = (await store.read(delivery)).model_dump()
    async with database.write_connection() as connection:
        await parked_store.mark_released(connection, [delivery.gid], moment(1))
    assert (await store.read(delivery)).model_dump() == before
