"""Grouping: one transaction for what is asked at once, and no request fails because of another's poison."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.storage import batching
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.statements import table_of
from everhook.storage.tables import Tenant

pytestmark = pytest.mark.both_databases

TAKEN = "default"
"""The name that the migration gave away: a tenant of this name cannot be inserted."""


class Inserts:
    """Inserts tenants by name, and counts what was asked of it; can be made to wait, or to fail."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    async def __call__(self, connection: AsyncConnection, names: Sequence[str]) -> Sequence[str]:
        self.groups.append(list(names))
        self.started.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        await connection.execute(insert(table_of(Tenant)), [Tenant(name=name).model_dump() for name in names])
        return [name.upper() for name in names]


@pytest.fixture
def inserts() -> Inserts:
    return Inserts()


@pytest.fixture
def group(database: Database, inserts: Inserts) -> BatchExecutor[str, str]:
    return BatchExecutor(database.write_connection, inserts)


async def names_in(database: Database) -> set[str]:
    async with database.read_connection() as connection:
        return set((await connection.execute(select(col(Tenant.name)))).scalars()) - {TAKEN}


def names(count: int) -> list[str]:
    return [f"t{n:04}" for n in range(count)]


async def test_a_single_caller_gets_its_result_after_its_commit(
    database: Database, group: BatchExecutor[str, str], inserts: Inserts
) -> None:
    assert await group.submit("one") == "ONE"
    assert await names_in(database) == {"one"}
    assert inserts.groups == [["one"]]


async def test_everyone_gets_their_own_result(database: Database, group: BatchExecutor[str, str]) -> None:
    assert await asyncio.gather(*map(group.submit, names(50))) == [name.upper() for name in names(50)]
    assert await names_in(database) == set(names(50))


async def test_a_thousand_at_once_take_two_transactions(group: BatchExecutor[str, str], inserts: Inserts) -> None:
    await asyncio.gather(*map(group.submit, names(1_000)))
    assert [len(names) for names in inserts.groups] == [500, 500]


async def test_no_group_is_larger_than_it_may_be(database: Database, inserts: Inserts) -> None:
    group = BatchExecutor(database.write_connection, inserts, at_most=7)
    await asyncio.gather(*map(group.submit, names(20)))
    assert [len(names) for names in inserts.groups] == [7, 7, 6]


async def test_while_one_group_commits_the_next_gathers(group: BatchExecutor[str, str], inserts: Inserts) -> None:
    inserts.gate.clear()
    first = asyncio.create_task(group.submit("first"))
    await inserts.started.wait()
    later = [asyncio.create_task(group.submit(name)) for name in names(30)]
    await asyncio.sleep(0)
    inserts.gate.set()
    await asyncio.gather(first, *later)
    assert inserts.groups == [["first"], names(30)]


@pytest.mark.parametrize("place", [0, 1, 24, 49])
async def test_a_poisoned_row_fails_alone_and_all_others_are_committed(
    database: Database, group: BatchExecutor[str, str], place: int
) -> None:
    good = names(49)
    results = await asyncio.gather(*map(group.submit, [*good[:place], TAKEN, *good[place:]]), return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, BaseException)] == [place]
    assert isinstance(results[place], IntegrityError)
    assert await names_in(database) == set(good)


async def test_a_group_of_nothing_but_poison_fails_and_the_next_one_succeeds(
    database: Database, group: BatchExecutor[str, str]
) -> None:
    results = await asyncio.gather(*(group.submit(TAKEN) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, IntegrityError) for result in results)
    assert await group.submit("good") == "GOOD"
    assert await names_in(database) == {"good"}


async def test_an_error_outside_the_database_fails_the_whole_group_and_nothing_is_committed(
    database: Database, group: BatchExecutor[str, str], inserts: Inserts
) -> None:
    inserts.failures = [LookupError("a bug")]
    results = await asyncio.gather(*map(group.submit, names(5)), return_exceptions=True)
    assert all(isinstance(result, LookupError) for result in results)
    assert len(inserts.groups) == 1
    assert await names_in(database) == set()
    assert await group.submit("after") == "AFTER"


async def test_an_unavailable_database_is_called_once_a_group_and_every_caller_gets_the_error(
    group: BatchExecutor[str, str], inserts: Inserts
) -> None:
    inserts.failures = [OperationalError("INSERT", {}, Exception("away"))]
    results = await asyncio.gather(*map(group.submit, names(200)), return_exceptions=True)
    assert all(isinstance(result, OperationalError) for result in results)
    assert len(inserts.groups) == 1
    assert await group.submit("after") == "AFTER"


async def test_every_caller_gets_the_error_without_a_connection(lost_database: Database, inserts: Inserts) -> None:
    group = BatchExecutor(lost_database.write_connection, inserts)
    results = await asyncio.gather(*map(group.submit, names(20)), return_exceptions=True)
    assert all(isinstance(result, Exception) and is_unavailable(result) for result in results)
    assert inserts.groups == []


async def test_every_caller_of_a_failed_commit_gets_its_error(database: Database, inserts: Inserts) -> None:
    @asynccontextmanager
    async def breaks_at_commit() -> AsyncIterator[AsyncConnection]:
        async with database.write_connection() as connection:
            yield connection
            raise OperationalError("COMMIT", {}, Exception("gone"))

    results = await asyncio.gather(
        *map(BatchExecutor(breaks_at_commit, inserts).submit, names(5)), return_exceptions=True
    )
    assert all(isinstance(result, OperationalError) for result in results)
    assert await names_in(database) == set()


async def test_a_submitted_item_is_committed_even_if_its_caller_is_cancelled(
    database: Database, group: BatchExecutor[str, str], inserts: Inserts
) -> None:
    inserts.gate.clear()
    leaver, stayer = asyncio.create_task(group.submit("leaver")), asyncio.create_task(group.submit("stayer"))
    await inserts.started.wait()
    leaver.cancel()
    with suppress(asyncio.CancelledError):
        await leaver
    inserts.gate.set()
    assert await stayer == "STAYER"
    assert await names_in(database) == {"leaver", "stayer"}


async def test_an_error_whose_caller_left_has_no_effect_on_others(
    group: BatchExecutor[str, str], inserts: Inserts
) -> None:
    inserts.gate.clear()
    leaver = asyncio.create_task(group.submit(TAKEN))
    await inserts.started.wait()
    leaver.cancel()
    inserts.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert await group.submit("after") == "AFTER"


def test_a_connection_error_means_unavailable_and_a_statement_error_does_not() -> None:
    wrong = IntegrityError("INSERT", {}, Exception("duplicate"))
    broken = DBAPIError("INSERT", {}, Exception("closed"), connection_invalidated=True)
    assert not is_unavailable(wrong)
    assert is_unavailable(broken)
    assert is_unavailable(ConnectionRefusedError())
    assert not is_unavailable(ValueError())


async def test_items_that_can_wait_are_collected_and_delay_no_others(
    group: BatchExecutor[str, str], inserts: Inserts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "COLLECT_S", 0.2)
    first, second, third = names(3)
    waiting = [asyncio.create_task(group.submit(first, can_wait=True))]
    await asyncio.sleep(0.02)
    waiting.append(asyncio.create_task(group.submit(second, can_wait=True)))
    assert await group.submit(third) == third.upper()
    assert inserts.groups == [[third]]
    assert await asyncio.gather(*waiting) == [first.upper(), second.upper()]
    assert inserts.groups == [[third], [first, second]]
