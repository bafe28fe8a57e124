"""Claims of idempotency keys, on both databases."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import update

from everhook.storage import idempotency
from everhook.storage.bulk import Bulk
from everhook.storage.encryption import reencrypt
from everhook.storage.engine import Database
from everhook.storage.idempotency import CLAIM_LIFETIME, LIFETIME, Call
from everhook.storage.tables import IdempotentResponse, now
from everhook.tenants.retention_store import remove_credentials
from tests.stores.factories import KEYRING, Store

pytestmark = pytest.mark.both_databases

CALL = Call.of("", "k", b"POST /v1/channels", b"{}")
SECOND = timedelta(seconds=1)


async def claim(database: Database, call: Call = CALL) -> bool:
    async with database.writing() as session:
        return await idempotency.claim(session, call)


async def find(database: Database) -> idempotency.StoredResponse | None:
    async with database.read_connection() as connection:
        return await idempotency.find(connection, KEYRING, CALL)


async def keep(database: Database) -> None:
    async with database.writing() as session:
        await idempotency.save_response(session, KEYRING, CALL, 201, '{"a": 1}', None)


async def age(database: Database, by: timedelta) -> None:
    async with database.writing() as session:
        await session.execute(update(IdempotentResponse).values(created_at=now() - by))


def test_scope_and_key_and_the_parts_of_a_call_do_not_run_together() -> None:
    assert Call.of("ten_1", "k").key_sha256 != Call.of("", "ten_1k").key_sha256
    assert Call.of("", "k", b"ab", b"c").request_sha256 != Call.of("", "k", b"a", b"bc").request_sha256


async def test_a_claim_that_waits_for_another_loses_where_that_is_committed(
    store: Store, other_database: Database
) -> None:
    async with store.database.writing() as session:
        assert await idempotency.claim(session, CALL)
        other = asyncio.create_task(claim(other_database))
        await asyncio.sleep(0.05)
        await idempotency.save_response(session, KEYRING, CALL, 201, "{}", None)
    assert await other is False
    found = await find(store.database)
    assert found is not None and found.body == "{}"


async def test_a_claim_that_waits_for_another_wins_where_that_is_rolled_back(
    store: Store, other_database: Database
) -> None:
    async with store.database.writing() as session:
        assert await idempotency.claim(session, CALL)
        other = asyncio.create_task(claim(other_database))
        await asyncio.sleep(0.05)
        await session.rollback()
    assert await other is True


async def test_a_claim_ends_after_a_minute_and_a_response_after_a_day(store: Store) -> None:
    assert await claim(store.database)
    await age(store.database, CLAIM_LIFETIME - 10 * SECOND)
    assert await claim(store.database) is False
    await age(store.database, CLAIM_LIFETIME + SECOND)
    assert await find(store.database) is None
    assert await claim(store.database)

    await keep(store.database)
    await age(store.database, LIFETIME - 10 * SECOND)
    assert await claim(store.database) is False
    await age(store.database, LIFETIME + SECOND)
    assert await find(store.database) is None
    assert await claim(store.database)


async def test_retention_removes_what_is_over(store: Store) -> None:
    assert await claim(store.database)
    assert await remove_credentials(Bulk(store.database), now()) == 0
    await age(store.database, LIFETIME + SECOND)

    assert await remove_credentials(Bulk(store.database), now()) == 1
    assert await store.count(IdempotentResponse) == 0


async def test_a_response_is_encrypted_and_reencrypted(store: Store) -> None:
    assert await claim(store.database)
    await keep(store.database)

    assert [batch async for batch in reencrypt(store.database, KEYRING)] == []
    found = await find(store.database)
    assert found == idempotency.StoredResponse(CALL.request_sha256, 201, '{"a": 1}')
