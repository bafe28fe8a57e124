"""Which deliveries wait for the settled workflow that shows them."""

import pytest

from everhook.delivery import history_store as history
from everhook.delivery.history_store import Pending
from everhook.storage.engine import Database
from everhook.storage.tables import PendingHistory
from tests.stores.factories import Store, moment
from tests.stores.past import keep


async def test_pending_history_is_listed_oldest_first_and_without_recently_settled_deliveries(
    store: Store, database: Database
) -> None:
    rows = [PendingHistory(delivery_gid=f"dlv_{n}", settled_at=moment(n)) for n in range(5)]
    await keep(database, *rows)
    expected = [Pending(f"dlv_{n}", moment(n), signal=False) for n in range(3)]
    async with database.read_connection() as connection:
        assert await history.pending(connection, moment(3), 10) == expected
        assert await history.pending(connection, moment(3), 2) == expected[:2]


async def test_an_urgent_row_is_found_although_others_come_before_it(store: Store, database: Database) -> None:
    rows = [PendingHistory(delivery_gid=f"dlv_{n}", settled_at=moment(n), signal=n == 3) for n in range(5)]
    await keep(database, *rows)
    async with database.read_connection() as connection:
        found = await history.pending(connection, moment(5), 10, urgent_before=moment(1))
        assert found == [Pending("dlv_0", moment(0), signal=False), Pending("dlv_3", moment(3), signal=True)]
        assert await history.pending(connection, moment(3), 10, urgent_before=moment(0)) == []


@pytest.mark.both_databases
async def test_forgetting_deletes_only_the_given_rows(store: Store, database: Database) -> None:
    await keep(database, *(PendingHistory(delivery_gid=f"dlv_{n}", settled_at=moment()) for n in range(3)))
    async with database.write_connection() as connection:
        await history.forget(connection, ["dlv_0", "dlv_2", "dlv_none"])
    async with database.read_connection() as connection:
        assert [each.delivery_gid for each in await history.pending(connection, moment(1), 10)] == ["dlv_1"]
