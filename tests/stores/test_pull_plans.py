"""The plans of a claim, and of the leases of a consumer, with many deliveries waiting."""

from typing import Any

from sqlalchemy import text
from sqlmodel import SQLModel

from everhook.contracts import DeliveryMode
from everhook.ids import Kind, new_gid
from everhook.pulling import queue_store as queue
from everhook.storage.engine import Database
from everhook.storage.statements import table_of
from everhook.storage.tables import Delivery, Message, PullItem, now
from tests.stores.factories import Store
from tests.stores.plans import plan_of, recorded
from tests.stores.test_pull_queue import publish

MANY = 10_000

GIDS: dict[type[SQLModel], dict[str, str]] = {
    Message: {"gid": "msg"},
    Delivery: {"gid": "dlv", "message_gid": "msg"},
    PullItem: {"delivery_gid": "dlv"},
}


async def multiply(database: Database) -> None:
    """Copies of the only message, of its delivery, and of its place in the queue."""
    numbers = f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {MANY})"
    async with database.write_connection() as connection:
        for model, gids in GIDS.items():
            table = table_of(model)
            names = [column.name for column in table.columns]
            values = ", ".join(
                f"'{gids[name]}_' || substr('00000000000000000000000000' || n, -26)"
                if database.is_sqlite and name in gids
                else f"'{gids[name]}_' || lpad(n::text, 26, '0')"
                if name in gids
                else f'original."{name}"'
                for name in names
            )
            columns = ", ".join(f'"{name}"' for name in names)
            one = f"(SELECT * FROM {table.name} LIMIT 1) AS original"
            await connection.execute(
                text(f"INSERT INTO {table.name} ({columns}) {numbers} SELECT {values} FROM copies, {one}")
            )
    async with database.write_connection() as connection:
        await connection.execute(text("ANALYZE"))


async def test_claims_read_the_index_of_available_items_and_consumers_that_of_leases(
    store: Store, database: Database
) -> None:
    endpoint = await store.subscribed(mode=DeliveryMode.POLL, url="")
    await publish(store, 1)
    await multiply(database)
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
