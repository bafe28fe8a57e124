"""Groups in one transaction: the order of a batch, and the order in which groups are locked."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from everhook.contracts import DeliveryStatus
from everhook.ordering.store import settle, take_positions
from everhook.storage.engine import Database
from everhook.storage.migrate import migrate
from testing.postgres_server import PostgresServer
from tests.stores.factories import Store, accepted, publication
from tests.stores.locks import until_a_lock_is_awaited

pytestmark = pytest.mark.both_databases

KEYS = ("A", "a", "B")
"""`A`, `B`, `a` by their bytes, and `a`, `A`, `B` in English."""


@pytest.fixture
async def english(postgres: PostgresServer) -> AsyncIterator[Database]:
    url = await postgres.create_database(f"english_{uuid4().hex}", icu_locale="en-US")
    url = url.replace("postgresql://", "postgresql+asyncpg://", 1)
    await migrate(url)
    database = Database(url)
    yield database
    await database.close()


async def test_accepting_and_settling_lock_groups_in_the_same_order(english: Database) -> None:
    store = Store(english)
    endpoint = await store.subscribed()
    gids = [
        each.delivery_gid
        for key in KEYS
        for each in accepted(await store.acceptor().accept(publication(group_key=key))).deliveries
    ]
    async with english.write_connection() as one:
        # An accept that has the first of its groups:
        await one.execute(text("SELECT 1 FROM delivery_group WHERE group_key = 'A' FOR UPDATE"))

        async def settle_all() -> None:
            async with english.write_connection() as connection:
                await settle(connection, gids)

        settling = asyncio.create_task(settle_all())
        await until_a_lock_is_awaited(english)
        await take_positions(one, {(endpoint.gid, key): 1 for key in KEYS})
    await settling


async def test_a_message_whose_key_can_be_used_again_keeps_its_place_in_a_batch(
    store: Store, database: Database
) -> None:
    await store.subscribed()
    await store.acceptor().accept(publication(key="k"))
    async with database.write_connection() as connection:
        for table in ("delivery", "message"):
            await connection.execute(text(f"DELETE FROM {table}"))
    batch = [publication(key="k", group_key="a"), publication(group_key="a")]
    first, second = [accepted(each).deliveries[0] for each in await store.acceptor().accept_all(batch)]
    assert (first.status, second.status) == (DeliveryStatus.ACCEPTED, DeliveryStatus.QUEUED)
