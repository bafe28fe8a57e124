"""Custom headers that a release before stored as plain text: they are read as they are, and encrypted in batches."""

import pytest
from sqlalchemy import select, text, update
from sqlmodel import col

from everhook.delivery.snapshot_store import DestinationCache
from everhook.endpoints import store as endpoints
from everhook.storage.encryption import count_outdated
from everhook.storage.header_encryption import (
    _CONVERT,
    HEADER_MASK,
    _converted,
    count_plain_headers,
    encrypt_plain_headers,
    header_values,
)
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.tables import Endpoint
from tests.stores.factories import KEYRING, Store

HEADERS = {"X-Team": "orders", "x-key": 'v4lue "with" quotes'}


async def plain(store: Store, headers: dict[str, str] = HEADERS) -> Endpoint:
    """An endpoint as a release before wrote it."""
    endpoint = await store.endpoint()
    await write(store, endpoint, headers=headers)
    return endpoint


async def write(store: Store, endpoint: Endpoint, **values: object) -> None:
    async with store.database.writing() as session:
        await session.execute(update(Endpoint).where(col(Endpoint.gid) == endpoint.gid).values(**values))


async def sent_to(store: Store, endpoint: Endpoint) -> dict[str, str]:
    """The headers that a sender without a cache adds."""
    return dict((await DestinationCache(store.database, KEYRING).get(endpoint.gid, 1)).headers)


async def run(store: Store, at_once: int = 500) -> list[int]:
    return [count async for count in encrypt_plain_headers(store.database, KEYRING, at_once=at_once)]


async def in_the_table(store: Store) -> str:
    async with store.database.read_connection() as connection:
        return str((await connection.execute(text("SELECT * FROM endpoint"))).all())


async def test_new_headers_are_encrypted_from_the_start(store: Store) -> None:
    endpoint = await store.endpoint(headers=HEADERS)
    assert await sent_to(store, endpoint) == HEADERS
    assert "v4lue" not in await in_the_table(store) and "x-key" in await in_the_table(store)
    assert (await count_plain_headers(store.database), await run(store)) == (0, [])


@pytest.mark.both_databases
async def test_plain_values_are_used_until_they_are_encrypted_and_after(store: Store) -> None:
    ends = [await plain(store) for _ in range(5)]
    without, already = await store.endpoint(), await store.endpoint(headers=HEADERS)
    assert await sent_to(store, ends[0]) == HEADERS
    assert await count_plain_headers(store.database) == 5

    batches = encrypt_plain_headers(store.database, KEYRING, at_once=2)
    assert await anext(batches) == 2
    await batches.aclose()  # the process dies
    assert await count_plain_headers(store.database) == 3
    assert await run(store, at_once=2) == [2, 1]

    assert [await sent_to(store, end) for end in [*ends, already]] == [HEADERS] * 6
    assert await sent_to(store, without) == {}
    assert "v4lue" not in await in_the_table(store)
    assert (await run(store), await count_plain_headers(store.database)) == ([], 0)
    assert await count_outdated(store.database, KEYRING) == 0


async def test_the_encryption_of_headers_does_not_change_the_version_of_an_endpoint(store: Store) -> None:
    endpoint = await plain(store)
    await run(store)
    async with store.database.reading() as session:
        assert (await session.get_one(Endpoint, endpoint.gid)).version == endpoint.version


async def test_headers_that_a_release_before_changes_after_that_win_and_are_encrypted_too(store: Store) -> None:
    endpoint = await store.endpoint(headers=HEADERS)
    await write(store, endpoint, headers={"x-key": "changed"})
    assert await sent_to(store, endpoint) == {"x-key": "changed"}
    assert await run(store) == [1]
    assert await sent_to(store, endpoint) == {"x-key": "changed"}
    assert "changed" not in await in_the_table(store)


async def test_headers_that_are_changed_during_a_batch_are_not_overwritten(store: Store) -> None:
    endpoint = await plain(store, {"x-key": "older"})
    stale = _converted(KEYRING, endpoint.gid, '{"x-key": "oldest"}')
    async with store.database.write_connection() as connection:
        await connection.execute(_CONVERT, [stale])
    assert await sent_to(store, endpoint) == {"x-key": "older"}


@pytest.mark.both_databases
async def test_values_of_another_row_or_of_a_lost_key_are_a_fault_and_not_sent(store: Store) -> None:
    one, other = await store.endpoint(headers=HEADERS), await store.endpoint(headers=HEADERS)
    async with store.database.reading() as session:
        theirs = (
            await session.execute(select(col(Endpoint.header_values)).where(col(Endpoint.gid) == other.gid))
        ).scalar_one()
    await write(store, one, header_values=theirs)
    found = await DestinationCache(store.database, KEYRING).get(one.gid, 1)
    assert found.headers == () and found.fault is not None and "decrypted" in found.fault
    await write(store, one, header_values=None)
    assert (await DestinationCache(store.database, KEYRING).get(one.gid, 1)).fault is not None
    lost = await DestinationCache(store.database, KeyRing([new_master_key()])).get(other.gid, 1)
    assert lost.headers == () and lost.fault is not None


async def test_a_deleted_endpoint_leaves_no_values(store: Store) -> None:
    endpoint = await store.endpoint(headers=HEADERS)
    async with store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
    async with store.database.reading() as session:
        row = await session.get_one(Endpoint, endpoint.gid)
    assert (row.headers, row.header_values) == ({}, None)


def test_the_mask_cannot_be_sent_or_set() -> None:
    assert not HEADER_MASK.isascii()
    assert header_values(KEYRING, "ep_1", {"x-a": ""}, None) == {"x-a": ""}
