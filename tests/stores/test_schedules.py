"""Messages that wait for their time: who locks what."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text

from everhook.publishing.erasure_store import erase_payload
from everhook.publishing.schedules_store import take
from everhook.storage.engine import Database
from everhook.storage.tables import now
from tests.stores.factories import Store, accepted, publication
from tests.stores.locks import until_a_lock_is_awaited


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_an_erasure_waits_for_a_delivery_at_the_same_time(
    store: Store, database: Database, other_database: Database
) -> None:
    """Each locks the schedule before the message, so that they cannot deadlock."""
    await store.channel()
    later = publication(deliver_at=now() + timedelta(hours=1))
    gid = accepted(await store.acceptor().accept(later)).message_gid

    async def erase() -> bool:
        async with other_database.writing() as session:
            return await erase_payload(session, gid)

    async with database.write_connection() as connection:
        assert await take(connection, gid)
        erasing = asyncio.create_task(erase())
        await until_a_lock_is_awaited(database)
        await connection.execute(text("UPDATE message SET is_unrouted = true"))
    assert await erasing
