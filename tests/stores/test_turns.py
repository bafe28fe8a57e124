"""Requests in flight to endpoints with a limit, counted over processes."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col
from temporalio.exceptions import ApplicationError

from everhook.delivery import turns_store
from everhook.delivery.turns import TurnQueue
from everhook.delivery.turns_store import Turn, Turns
from everhook.ids import Kind, new_gid
from everhook.storage.engine import Database
from everhook.storage.tables import EndpointTurn, now
from testing.waiting import assert_eventually
from tests.stores.factories import Store

pytestmark = pytest.mark.both_databases

LEASE = timedelta(minutes=1)


@pytest.fixture
async def gid(store: Store) -> str:
    return (await store.endpoint()).gid


async def test_all_processes_together_take_at_most_the_limit_of_turns(
    database: Database, other_database: Database, gid: str
) -> None:
    one, other = Turns(database), Turns(other_database)
    found = await asyncio.gather(*(turns.take(gid, 3, LEASE) for _ in range(10) for turns in (one, other)))
    taken = [turn for turn in found if turn is not None]
    assert sorted(turn.slot for turn in taken) == [0, 1, 2]
    assert await other.take(gid, 3, LEASE) is None


async def test_two_processes_that_see_the_same_free_slot_do_not_both_take_it(
    database: Database, other_database: Database, gid: str
) -> None:
    async def take(one: Database) -> Sequence[Turn | None]:
        async with one.write_connection() as connection:
            return await turns_store._take_all(connection, [wanted()])

    def wanted() -> turns_store._Wanted:
        return turns_store._Wanted(gid, 1, new_gid(Kind.ATTEMPT), now() + LEASE)

    async with database.write_connection() as connection:
        [first] = await turns_store._take_all(connection, [wanted()])
        second = asyncio.create_task(take(other_database))
        await asyncio.sleep(0.1)
        assert first is not None and not second.done()
    assert await second == [None]


async def test_a_turn_that_is_given_back_is_free_for_other_processes(
    store: Store, other_database: Database, gid: str
) -> None:
    one, other = Turns(store.database), Turns(other_database)
    turn = await one.take(gid, 1, LEASE)
    assert turn is not None and await other.take(gid, 1, LEASE) is None
    await one.give_back(turn)
    assert await other.take(gid, 1, LEASE) is not None


async def test_each_endpoint_has_its_own_turns(store: Store, gid: str) -> None:
    turns = Turns(store.database)
    assert await turns.take(gid, 1, LEASE) is not None
    assert await turns.take((await store.endpoint()).gid, 1, LEASE) is not None


async def test_the_turn_of_a_process_that_died_becomes_free_and_is_not_given_back_by_it(store: Store, gid: str) -> None:
    turns = Turns(store.database)
    lost = await turns.take(gid, 1, LEASE)
    assert lost is not None
    async with store.database.writing() as session:
        past = now() - timedelta(seconds=1)
        await session.execute(update(EndpointTurn).where(col(EndpointTurn.endpoint_gid) == gid).values(until=past))
    again = await turns.take(gid, 1, LEASE)
    assert again is not None and again.slot == lost.slot
    await turns.give_back(lost)
    assert await store.count(EndpointTurn) == 1


async def test_a_lower_limit_counts_what_is_in_flight_already(store: Store, gid: str) -> None:
    turns = Turns(store.database)
    taken = [await turns.take(gid, 3, LEASE) for _ in range(3)]
    assert taken[0] is not None
    await turns.give_back(taken[0])
    assert await turns.take(gid, 2, LEASE) is None


async def test_a_turn_that_no_attempt_waits_for_any_more_is_given_back(store: Store, gid: str) -> None:
    turns = Turns(store.database)
    taking = asyncio.create_task(turns.take(gid, 1, LEASE))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    await assert_eventually(lambda: _takes(turns, gid))


async def _takes(turns: Turns, gid: str) -> Turn:
    turn = await turns.take(gid, 1, LEASE)
    assert turn is not None
    return turn


# In the process that sends


async def test_attempts_wait_for_their_turn_for_a_while(store: Store, gid: str) -> None:
    queue = TurnQueue(Turns(store.database))
    first = await queue.take(gid, 1, LEASE, 1, waits=True)
    second = asyncio.create_task(queue.take(gid, 1, LEASE, 1, waits=True))
    with pytest.raises(ApplicationError, match="maximum number of requests in flight"):
        await queue.take(gid, 1, LEASE, 1, waits=False)
    assert not second.done()
    await queue.give_back(first)
    assert (await second).slot == 0


async def test_attempts_that_would_wait_for_long_are_postponed(
    store: Store, gid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everhook.delivery.turns.PATIENCE_S", 0.05)
    queue = TurnQueue(Turns(store.database))
    await queue.take(gid, 1, LEASE, 1, waits=True)
    found = await asyncio.gather(*(queue.take(gid, 1, LEASE, 1, waits=True) for _ in range(30)), return_exceptions=True)
    assert all(isinstance(each, ApplicationError) and each.next_retry_delay is not None for each in found)
