"""The pull queue on both databases: competing consumers, late acknowledgements, and the state after a crash."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col
from temporalio.client import Client

from everhook.circuit.client import CircuitClient
from everhook.circuit.machine import CircuitPolicy, CircuitState
from everhook.circuit.reporter import OutcomeReporter
from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, PullCheck, Verdict
from everhook.delivery import traffic as traffic_module
from everhook.delivery.guards import GuardStarter
from everhook.delivery.inputs_store import InputDefaults
from everhook.delivery.traffic import Traffic
from everhook.ids import Kind, new_gid
from everhook.pulling.leases import Ack, Extend, Item, LeaseStatus, Nack, PulledEndpoint, Request, stream_consumer
from everhook.pulling.queue_store import (
    QueueRow,
    back_offs,
    lock_rows,
    mark_guarded,
    requeue,
    rows_of,
)
from everhook.pulling.service import PullQueue, pull_options
from everhook.pulling.wake_ups import WakeUps
from everhook.receipts.keys_store import IssuerCache
from everhook.storage.engine import Database
from everhook.storage.tables import Attempt, CircuitRow, Delivery, PendingHistory, PullItem, Receipt, now
from everhook.temporal.client import connect
from testing.processes import refusing_port
from tests.stores.factories import ISSUER, KEYRING, Store, accepted, publication
from tests.stores.locks import until_a_lock_is_awaited
from tests.stores.plans import analyze

pytestmark = [pytest.mark.both_databases, pytest.mark.usefixtures("background_tasks")]

RETENTION = timedelta(days=30)


async def no_temporal() -> Client:
    return await connect(lazy=True, target_host=f"127.0.0.1:{refusing_port()}")


async def queue_of(database: Database, traffic: Traffic | None = None) -> PullQueue:
    """What one process has. Temporal is away, and nothing waits for it."""
    client = await no_temporal()
    policy = CircuitPolicy(failure_threshold=1_000)
    return PullQueue(
        database,
        InputDefaults(),
        IssuerCache(database, KEYRING, ISSUER),
        OutcomeReporter(CircuitClient(client, policy)),
        None,
        GuardStarter(client, database),
        WakeUps(database),
        traffic or Traffic(is_starting=lambda: False),
        policy,
    )


async def pulled(store: Store, **changes: Any) -> PulledEndpoint:
    endpoint = await store.subscribed(mode=DeliveryMode.POLL, url="", **changes)
    return PulledEndpoint(endpoint.gid, endpoint.tenant_gid, "default")


async def publish(store: Store, count: int) -> list[str]:
    messages = await store.acceptor().accept_all([publication({"n": n}) for n in range(count)])
    return [delivery.delivery_gid for each in messages for delivery in accepted(each).deliveries]


async def statuses(store: Store) -> Counter[DeliveryStatus]:
    async with store.database.reading() as session:
        return Counter((await session.execute(select(col(Delivery.status)))).scalars())


async def change_queue(store: Store, **values: Any) -> None:
    """Change all rows of the queue."""
    async with store.database.writing() as session:
        await session.execute(update(PullItem).values(**values))


async def test_two_processes_never_hand_out_a_delivery_twice(
    store: Store, database: Database, other_database: Database
) -> None:
    endpoint = await pulled(store)
    published = await publish(store, 200)
    queues = [await queue_of(database), await queue_of(other_database)]
    taken: list[Item] = []

    async def consume(queue: PullQueue, name: str) -> None:
        while claim := (await queue.claim(endpoint, Request(name, limit=7))).items:
            taken.extend(claim)
            await queue.acknowledge(endpoint, [Ack(str(item.lease)) for item in claim], None)

    await asyncio.gather(*(consume(queue, f"c{n}") for n in range(2) for queue in queues))
    assert sorted(item.lease.delivery_gid for item in taken) == sorted(published)
    assert await statuses(store) == {DeliveryStatus.DELIVERED: 200}
    assert (await store.count(PullItem), await store.count(Receipt)) == (0, 200)


async def test_consumers_that_ask_at_once_share_the_leases_that_an_endpoint_may_have(
    store: Store, database: Database, other_database: Database
) -> None:
    endpoint = replace(await pulled(store), max_in_flight=3, is_limited=True)
    await publish(store, 12)
    queues = [await queue_of(database), await queue_of(other_database)]
    requests = [Request(f"c{n}", limit=2) for n in range(4)]
    claims = await asyncio.gather(*(queue.claim(endpoint, request) for request in requests for queue in queues))
    assert sum(len(claim.items) for claim in claims) == 3


def test_the_limit_of_an_endpoint_holds_exactly_if_its_owner_chose_one() -> None:
    assert pull_options({}) == {}
    assert pull_options({"maxInFlight": 1000}) == {"max_in_flight": 1000, "is_limited": True}


async def test_a_back_off_ends_at_its_time_or_with_a_lease(store: Store, database: Database) -> None:
    endpoint = await pulled(store)
    gids = await publish(store, 2)
    later = now() + timedelta(hours=1)

    async def found() -> dict[str, datetime]:
        async with database.reading() as session:
            return await back_offs(session, gids)

    assert await found() == {}
    await change_queue(store, available_at=later)
    assert await found() == dict.fromkeys(gids, later)
    await change_queue(store, available_at=now())
    assert len((await (await queue_of(database)).claim(endpoint, Request("c"))).items) == 2
    assert await found() == {}


async def test_an_acknowledgement_lets_publishes_pass_but_not_for_long(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "PASS_S", 600.0)
    traffic = Traffic(is_starting=lambda: False)
    endpoint, queue = await pulled(store), await queue_of(database, traffic)
    await publish(store, 2)
    first, second = (await queue.claim(endpoint, Request("ann"))).items
    with traffic.in_progress():
        with traffic.in_progress():
            taking = asyncio.create_task(queue.acknowledge(endpoint, [Ack(str(first.lease))], None))
        await asyncio.wait([taking], timeout=0.2)
        assert not taking.done()
    assert [result.status for result in await taking] == [LeaseStatus.ACKED]
    monkeypatch.setattr(traffic_module, "PASS_S", 0.01)
    with traffic.in_progress():
        results = await queue.acknowledge(endpoint, [Ack(str(second.lease))], None)
        assert [result.status for result in results] == [LeaseStatus.ACKED]


async def test_what_consumers_do_when_they_connect_waits_for_a_turn(store: Store, database: Database) -> None:
    endpoint, queue = await pulled(store), await queue_of(database)
    async with AsyncExitStack() as turns:
        while not queue.turns.locked():
            await turns.enter_async_context(queue.turns)
        connecting = [
            asyncio.create_task(queue.claim(endpoint, Request("ann"))),
            asyncio.create_task(queue.release(endpoint, new_gid(Kind.CONSUMER), 0)),
            asyncio.create_task(queue.take_back(endpoint, new_gid(Kind.CONSUMER))),
        ]
        done, _ = await asyncio.wait(connecting, timeout=0.2)
        assert done == set()
    await asyncio.gather(*connecting)


async def test_acknowledgements_at_once_are_one(store: Store, database: Database, other_database: Database) -> None:
    endpoint = await pulled(store)
    await publish(store, 1)
    queues = [await queue_of(database), await queue_of(other_database)]
    (item,) = (await queues[0].claim(endpoint, Request("c"))).items
    lines = [Ack(str(item.lease))]
    results = await asyncio.gather(*(queue.acknowledge(endpoint, lines, None) for queue in queues * 3))
    assert sorted(result.duplicate for (result,) in results) == [False] + [True] * 5
    assert await store.count(Receipt) == 1


FENCED = pytest.mark.parametrize(
    ("line", "status"),
    [(Nack("{}"), LeaseStatus.LOST), (Extend("{}", timedelta(60)), LeaseStatus.LOST), (Ack("{}"), LeaseStatus.ACKED)],
    ids=["nack", "extend", "ack"],
)


def for_lease(line: Ack | Nack | Extend, item: Item) -> Ack | Nack | Extend:
    return replace(line, lease=str(item.lease))


@FENCED
async def test_the_number_of_a_lease_fences(
    store: Store, database: Database, line: Ack | Nack | Extend, status: LeaseStatus
) -> None:
    endpoint = await pulled(store)
    await publish(store, 1)
    queue = await queue_of(database)
    first = await _taken(queue, endpoint)
    await _expire(store)
    await _taken(queue, endpoint)
    (result,) = await queue.acknowledge(endpoint, [for_lease(line, first)], None)
    assert result.status is status


@FENCED
async def test_a_lease_that_ends_while_its_line_is_taken_fences_too(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch, line: Ack | Nack | Extend, status: LeaseStatus
) -> None:
    endpoint = await pulled(store)
    await publish(store, 1)
    queue = await queue_of(database)
    first = await _taken(queue, endpoint)

    async def outdated(*arguments: Any) -> dict[str, QueueRow]:
        rows = await rows_of(*arguments)
        await _expire(store)
        await _taken(queue, endpoint)
        return rows

    monkeypatch.setattr("everhook.pulling.queue_store.rows_of", outdated)
    (result,) = await queue.acknowledge(endpoint, [for_lease(line, first)], None)
    assert result.status is status
    receipts = 2 if status is LeaseStatus.ACKED else 1  # of the lease that expired, and of the acknowledgement
    assert await store.count(Receipt) == receipts


async def test_items_that_a_stream_never_delivered_are_released_and_do_not_count(
    store: Store, database: Database
) -> None:
    endpoint = await pulled(store)
    await publish(store, 3)
    queue = await queue_of(database)
    stream = new_gid(Kind.CONSUMER)
    items = (await queue.claim(endpoint, Request(stream_consumer(stream, "a b"), position=1))).items
    assert await queue.release(endpoint, new_gid(Kind.CONSUMER), after=1) == 0
    assert await queue.release(endpoint, stream, after=1) == 2
    again = (await queue.claim(endpoint, Request("worker-3"))).items
    assert [str(each.lease) for each in again] == [str(each.lease) for each in items[1:]]


@pytest.mark.parametrize(
    ("minutes", "nacks", "reason"),
    [
        (0, (), None),
        (-1, (), DeadLetterReason.UNCLAIMED),
        (-1, (Verdict.RETRY,), DeadLetterReason.EXHAUSTED),
        (0, (Verdict.REJECTED,), DeadLetterReason.REJECTED),
    ],
)
async def test_a_round_is_over_for_a_reason(
    store: Store, database: Database, minutes: int, nacks: Sequence[Verdict], reason: DeadLetterReason | None
) -> None:
    endpoint = await pulled(store)
    (gid,) = await publish(store, 1)
    queue = await queue_of(database)
    for verdict in nacks:
        item = await _taken(queue, endpoint)
        await queue.acknowledge(endpoint, [Nack(str(item.lease), dead_letter=verdict is Verdict.REJECTED)], None)
    if minutes:
        await change_queue(store, window_until=now() + timedelta(minutes=minutes))
    state = await queue.check(PullCheck(gid, 1, RETENTION))
    assert state.reason is reason
    assert await statuses(store) == {DeliveryStatus.DEAD_LETTERED if reason else DeliveryStatus.AVAILABLE: 1}
    assert await store.count(PullItem) == (0 if reason else 1)
    assert await queue.check(PullCheck(gid, 1, RETENTION)) == state  # asked twice is as good as once


async def test_a_delivery_that_a_consumer_works_on_is_not_dead_lettered(store: Store, database: Database) -> None:
    endpoint = await pulled(store)
    (gid,) = await publish(store, 1)
    queue = await queue_of(database)
    item = await _taken(queue, endpoint)
    await change_queue(store, window_until=now() - timedelta(minutes=1))
    state = await queue.check(PullCheck(gid, 1, RETENTION))
    assert (state.status, state.check_at) == (DeliveryStatus.AVAILABLE, item.lease_until)


async def test_a_check_that_runs_again_after_a_replay_leaves_the_new_round_alone(
    store: Store, database: Database
) -> None:
    """Its endpoint was given up; Temporal repeats a check whose response was lost."""
    await pulled(store)
    (gid,) = await publish(store, 1)
    queue = await queue_of(database)
    check = PullCheck(gid, 1, RETENTION, DeadLetterReason.ENDPOINT_DISABLED)
    assert (await queue.check(check)).status is DeliveryStatus.DEAD_LETTERED
    async with database.writing() as session:
        again = {"status": DeliveryStatus.ACCEPTED, "round": 2, "reason": None, "dead_lettered_at": None}
        await session.execute(update(Delivery).values(**again))
        await requeue(session, gid)
    assert (await queue.check(check)).status is DeliveryStatus.AVAILABLE
    assert await store.count(PullItem) == 1
    await change_queue(store, window_until=now() - timedelta(minutes=1))
    assert (await queue.check(check)).reason is DeadLetterReason.UNCLAIMED
    assert await statuses(store) == {DeliveryStatus.DEAD_LETTERED: 1}


async def test_a_lease_that_expires_after_the_window_is_recorded(store: Store, database: Database) -> None:
    endpoint = await pulled(store)
    (gid,) = await publish(store, 1)
    queue = await queue_of(database)
    await _taken(queue, endpoint)
    past = now() - timedelta(minutes=1)
    await change_queue(store, lease_until=past, available_at=past, window_until=past)
    state = await queue.check(PullCheck(gid, 1, RETENTION))
    assert (state.reason, state.attempts) == (DeadLetterReason.EXHAUSTED, 1)
    assert [(each.error, each.next_attempt_at) for each in await attempts(store)] == [("lease_expired", None)]
    assert await store.count(Receipt) == 1


async def test_a_nack_of_a_lease_that_would_have_outlasted_the_window_is_no_end(
    store: Store, database: Database
) -> None:
    """The round ends when no attempt is left, or when the next one would be outside the window."""
    endpoint = await pulled(store, policy={"delaysSeconds": [1, 1], "maxWindowSeconds": 600})
    endpoint = replace(endpoint, lease=timedelta(seconds=600))
    (gid,) = await publish(store, 1)
    queue = await queue_of(database)
    for number in (1, 2, 3):
        await change_queue(store, available_at=now())
        item = await _taken(queue, endpoint)
        (result,) = await queue.acknowledge(endpoint, [Nack(str(item.lease))], None)
        assert result.status is LeaseStatus.NACKED
        reason = (await queue.check(PullCheck(gid, 1, RETENTION))).reason
        assert reason is (DeadLetterReason.EXHAUSTED if number == 3 else None)


@pytest.mark.parametrize("is_extended", [False, True], ids=["asked to retry later", "extended"])
async def test_a_nack_promises_no_attempt_after_the_window(store: Store, database: Database, is_extended: bool) -> None:
    endpoint = await pulled(store)
    (gid,) = await publish(store, 1)
    queue = await queue_of(database)
    lease = str((await _taken(queue, endpoint)).lease)
    if is_extended:
        await queue.acknowledge(endpoint, [Extend(lease, timedelta(hours=80))], None)
        await change_queue(store, window_until=now() - timedelta(minutes=1))
        await queue.acknowledge(endpoint, [Nack(lease)], None)
    else:
        await queue.acknowledge(endpoint, [Nack(lease, retry_after=timedelta(hours=72))], None)
    assert [each.next_attempt_at for each in await attempts(store)] == [None]
    assert (await queue.check(PullCheck(gid, 1, RETENTION))).reason is DeadLetterReason.EXHAUSTED


async def test_a_nack_without_a_lease_that_is_repeated_after_the_end_of_the_round_changes_nothing(
    store: Store, database: Database
) -> None:
    endpoint = await pulled(store, policy={"delaysSeconds": []})
    await publish(store, 1)
    queue = await queue_of(database)
    nack = Nack(str((await _taken(queue, endpoint)).lease), needs_lease=False)
    for is_repeated in (False, True):
        (result,) = await queue.acknowledge(endpoint, [nack], None)
        assert (result.status, result.duplicate) == (LeaseStatus.NACKED, is_repeated)
    assert len(await attempts(store)) == 1


async def test_a_probe_that_no_consumer_received_holds_up_no_other(store: Store, database: Database) -> None:
    endpoint = replace(await pulled(store), lease=timedelta(hours=1))
    await publish(store, 3)
    queue = await queue_of(database)
    async with database.writing() as session:
        await session.execute(update(CircuitRow).values(state=CircuitState.HALF_OPEN))
    stream = new_gid(Kind.CONSUMER)
    request = Request(stream_consumer(stream, "c"), limit=5, position=1)
    assert len((await queue.claim(endpoint, request)).items) == 1
    assert (await queue.claim(endpoint, request)).items == ()
    assert await queue.release(endpoint, stream, 0) == 1
    assert len((await queue.claim(endpoint, request)).items) == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_the_reconciler_and_an_acknowledgement_lock_in_one_order(
    store: Store, database: Database, other_database: Database
) -> None:
    """An UPDATE locks rows in the order in which it reads them. It reads the first one last, for that was changed."""
    endpoint = await pulled(store)
    first, *others = sorted(await publish(store, 3))
    async with database.writing() as session:
        await session.execute(update(PullItem).where(col(PullItem.delivery_gid) == first).values(number=0))
    await analyze(database)

    async def mark() -> None:
        async with database.write_connection() as connection:
            await mark_guarded(connection, [first, *others])

    async def acknowledge() -> None:
        async with other_database.write_connection() as connection:
            await lock_rows(connection, endpoint.gid, [first, *others])

    async with database.write_connection() as connection:
        await lock_rows(connection, endpoint.gid, [first])
        acknowledging = asyncio.create_task(acknowledge())
        await until_a_lock_is_awaited(store.database)
        marking = asyncio.create_task(mark())
        await asyncio.sleep(0.2)
    await asyncio.gather(acknowledging, marking)


async def test_the_workflow_of_a_delivery_learns_of_its_last_lease(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled: list[str] = []
    monkeypatch.setattr(GuardStarter, "signal", lambda _, delivery: signalled.append(delivery.delivery_gid))
    endpoint = await pulled(store)
    messages = await store.acceptor().accept_all([replace(publication(), single_attempt=True), publication()])
    gid, other = (accepted(each).deliveries[0].delivery_gid for each in messages)
    queue = await queue_of(database)
    async with database.write_connection() as connection:
        await mark_guarded(connection, [gid, other])
    waiting = await queue.check(PullCheck(gid, 1, RETENTION))
    items = {each.lease.delivery_gid: each for each in (await queue.claim(endpoint, Request("c"))).items}
    assert items.keys() == {gid, other} and signalled == [gid]
    async with database.reading() as session:  # a process that dies before it signals leaves it to the reconciler
        pending = (await session.execute(select(PendingHistory))).scalars().all()
    assert [(each.delivery_gid, each.signal) for each in pending] == [(gid, True)]
    state = await queue.check(PullCheck(gid, 1, RETENTION))
    assert state.check_at == items[gid].lease_until
    assert waiting.check_at is not None and waiting.check_at > state.check_at + timedelta(hours=1)
    await _expire(store)
    assert (await queue.check(PullCheck(gid, 1, RETENTION))).reason is DeadLetterReason.EXHAUSTED


async def test_a_delivery_without_a_workflow_needs_no_signal_for_its_last_lease(
    store: Store, database: Database
) -> None:
    endpoint = await pulled(store)
    await store.acceptor().accept_all([replace(publication(), single_attempt=True)])
    await _taken(await queue_of(database), endpoint)
    assert await store.count(PendingHistory) == 0


async def attempts(store: Store) -> Sequence[Attempt]:
    async with store.database.reading() as session:
        return (await session.execute(select(Attempt).order_by(col(Attempt.number)))).scalars().all()


async def _taken(queue: PullQueue, endpoint: PulledEndpoint) -> Item:
    (item,) = (await queue.claim(endpoint, Request("c"))).items
    return item


async def _expire(store: Store) -> None:
    past = now() - timedelta(minutes=1)
    await change_queue(store, lease_until=past, available_at=past)
