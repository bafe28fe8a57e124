"""The plans of the reads that waiting makes, with many deliveries of other messages."""

import pytest

from everhook.contracts import DeliveryMode
from everhook.lifecycle import store as lifecycle
from everhook.storage.engine import Database
from everhook.storage.tables import Attempt, Delivery, DeliveryRound, Message
from tests.stores.factories import Store
from tests.stores.plans import analyze, copy_of, multiply, plan_of, reads_whole, recorded
from tests.stores.test_pull_plans import MANY
from tests.stores.test_pull_queue import publish

pytestmark = pytest.mark.both_databases


async def test_the_query_that_all_waiters_share_reads_the_deliveries_of_their_messages_alone(
    store: Store, database: Database
) -> None:
    await store.subscribed(mode=DeliveryMode.POLL, url="")
    [gid] = await publish(store, 1)
    async with database.reading() as session:
        delivery = await session.get_one(Delivery, gid)
        await multiply(database, delivery, MANY)
        await analyze(database)
        gids = [copy_of(delivery.message_gid, n) for n in (7, MANY - 7, MANY - 1)]
        statements = recorded(database)
        async with database.read_connection() as connection:
            found = await lifecycle.fingerprints(connection, gids)
        assert {gid: [part[1:] for part in parts] for gid, parts in found.items()} == {gid: [(1, 1, 0)] for gid in gids}
        assert len(statements) == 1
        await lifecycle.message(session, gids[0])
        await lifecycle.tally(session, gids[0])
        (row,) = await lifecycle.deliveries(session, gids[0], limit=100)
        await lifecycle.histories(session, [row], after=(row.gid, (1, 0)), limit=100)
        await lifecycle.delivery_responses(session, gids[0], 100)
    for sql, parameters in list(statements.items()):
        plan = await plan_of(database, sql, parameters)
        for table in (Message, Delivery, Attempt, DeliveryRound):
            assert not reads_whole(plan, str(table.__tablename__)), plan
        if "FROM delivery" in sql and "delivery_round" not in sql:
            assert "ix_delivery_message" in plan, plan
