"""Wake-ups across processes: two engines on one PostgreSQL, as two processes have them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sqlalchemy import text

from everhook.ids import Kind, new_gid
from everhook.pulling.leases import stream_consumer
from everhook.pulling.wake_ups import WakeUps
from everhook.storage.engine import Database
from everhook.storage.notifications import COALESCE_S, MAX_PAYLOAD_BYTES, Notifications, payloads
from testing.waiting import PATIENCE_S, assert_eventually
from tests.stores.factories import Store
from tests.stores.test_pull_queue import publish, pulled


@pytest_asyncio.fixture
async def here(database: Database) -> AsyncIterator[WakeUps]:
    wake_ups = WakeUps(database)
    yield wake_ups
    await wake_ups.close()


@pytest_asyncio.fixture
async def there(other_database: Database) -> AsyncIterator[WakeUps]:
    wake_ups = WakeUps(other_database)
    yield wake_ups
    await wake_ups.close()


async def hears(wake_ups: WakeUps) -> None:
    def arrives() -> None:
        assert wake_ups._others is not None
        assert wake_ups._others.arrive

    await assert_eventually(arrives)


async def is_woken(wake_ups: WakeUps, endpoint_gid: str) -> bool:
    """Whether a hint wakes a waiter. No check of the queue does: there is no delivery."""
    with wake_ups.waiting(endpoint_gid) as waiter:
        return await waiter.wait(PATIENCE_S)


async def test_another_process_is_woken_by_a_hint(here: WakeUps, there: WakeUps) -> None:
    first, second = new_gid(Kind.ENDPOINT), new_gid(Kind.ENDPOINT)
    with there.waiting(first), there.waiting(second):
        await hears(there)
        here.wake([new_gid(Kind.ENDPOINT)])  # opens the connection
        await asyncio.sleep(0.2)
        waiting = [asyncio.create_task(is_woken(there, gid)) for gid in (first, second)]
        await asyncio.sleep(0)
        here.wake([first, second])
        assert await asyncio.gather(*waiting) == [True, True]


async def test_a_stream_at_another_process_is_woken_by_an_acknowledgement(here: WakeUps, there: WakeUps) -> None:
    gid, consumer = new_gid(Kind.ENDPOINT), stream_consumer(new_gid(Kind.CONSUMER), "worker-3")
    waiting = asyncio.create_task(is_woken(there, gid))
    await asyncio.sleep(0)
    await hears(there)
    here.free(gid, {"worker-3": [new_gid(Kind.DELIVERY)]})  # polls: nothing to wake
    await asyncio.sleep(0.2)
    assert not waiting.done()
    here.free(gid, {consumer: [new_gid(Kind.DELIVERY)]})
    assert await waiting


async def test_a_delivery_arrives_although_the_listeners_connection_is_cut(
    store: Store, there: WakeUps, database: Database
) -> None:
    endpoint = await pulled(store)
    with there.waiting(endpoint.gid) as waiter:
        await hears(there)
        await cut_listeners(database)
        await publish(store, 1)
        assert await waiter.wait(PATIENCE_S), "the queue is checked until it listens again"
        await hears(there)


async def test_notifications_end_although_they_were_woken_at_the_same_time(database: Database) -> None:
    notifications = Notifications(database, "everhook", lambda _: None)
    notifications.send([new_gid(Kind.ENDPOINT)])
    await assert_eventually(lambda: _assert_sent(notifications))
    await asyncio.sleep(2 * COALESCE_S)
    notifications.send([new_gid(Kind.ENDPOINT)])
    closing = asyncio.create_task(notifications.close())
    done, _ = await asyncio.wait([closing], timeout=PATIENCE_S)
    assert done == {closing}


def _assert_sent(notifications: Notifications) -> None:
    assert not notifications._pending


async def cut_listeners(database: Database) -> None:
    async with database.read_connection() as connection:
        cut = await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'")
        )
        assert len(cut.all()) >= 1


async def test_the_queue_is_checked_more_often_while_notifications_do_not_arrive(
    there: WakeUps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler in transaction mode gives each statement another connection of the server."""
    monkeypatch.setattr("everhook.storage.notifications.CHECK_TIMEOUT_S", 0.1)
    monkeypatch.setattr("everhook.pulling.wake_ups.CHECK_S", 600.0)
    monkeypatch.setattr(Notifications, "_received", lambda *_: None)
    checks = 0

    async def count_checks(_: object) -> list[str]:
        nonlocal checks
        checks += 1
        return []

    monkeypatch.setattr(there, "_with_available", count_checks)

    def checks_continue() -> None:
        assert checks >= 3

    with there.waiting(new_gid(Kind.ENDPOINT)):
        await assert_eventually(checks_continue)


def test_payloads_are_smaller_than_postgresql_takes(database_url: str) -> None:
    gids = [new_gid(Kind.ENDPOINT) for _ in range(1_000)]
    found = list(payloads([*gids, "it's"]))
    assert " ".join(found).split() == gids
    assert len(found) > 1
    assert max(map(len, found)) <= MAX_PAYLOAD_BYTES
