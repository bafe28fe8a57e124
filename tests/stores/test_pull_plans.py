"""The plans of a claim, and of the leases of a consumer, with many deliveries waiting."""

from typing import Any

import pytest

from everhook.contracts import DeliveryMode
from everhook.ids import Kind, new_gid
from everhook.pulling import queue_store as queue
from everhook.storage.engine import Database
from everhook.storage.tables import Delivery, now
from tests.stores.factories import Store
from tests.stores.plans import analyze, multiply, plan_of, recorded
from tests.stores.test_pull_queue import publish

pytestmark = pytest.mark.both_databases

MANY = 10_000


async def test_claims_read_the_index_of_available_items_and_consumers_that_of_leases(
    store: Store, database: Database
) -> None:
    endpoint = await store.subscribed(mode=DeliveryMode.POLL, url="")
    [gid] = await publish(store, 1)
    async with database.reading() as session:
        await multiply(database, await session.get_one(Delivery, gid), MANY)
    await analyze(database)
    statements = recorded(database)
    async with database.write_connection() as connection:
        moment: Any = now()
        assert len(await queue.lock_claimable(connection, endpoint.gid, moment, 10)) == 10
    ((sql, parameters),) = [one for one in statements.items() if "FROM pull_queue" in one[0]]
    plan = await plan_of(database, sql, parameters)
    assert "ix_pull_queue_available" in plan, plan
    assert "Sort" not in plan and "TEMP B-TREE FOR ORDER BY" not in plan, plan
    statements.clear()
    async with database.write_connection() as connection:
        assert await queue.lock_consumer(connection, endpoint.gid, new_gid(Kind.CONSUMER), 0, 10) == []
    ((sql, parameters),) = [one for one in statements.items() if "FROM pull_queue" in one[0]]
    plan = await plan_of(database, sql, parameters)
    assert "ix_pull_queue_leased" in plan, plan
    statements.clear()
    async with database.read_connection() as connection:
        assert (await queue.next_available(connection, endpoint.gid))[1] is not None
    async with database.reading() as session:
        assert (await queue.queue_view(session, endpoint.gid)).oldest is not None
    for sql, parameters in list(statements.items()):
        if "FROM pull_queue" in sql:
            plan = await plan_of(database, sql, parameters)
            assert "ix_pull_queue_" in plan and "Seq Scan" not in plan and "SCAN pull_queue" not in plan, plan
