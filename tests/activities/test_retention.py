"""The pass of retention, as far as it is no statement of a store."""

from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.retention import RetentionActivities
from everhook.endpoints import store as endpoints
from everhook.storage.header_encryption import count_plain_headers
from everhook.storage.tables import Endpoint
from everhook.tenants.retention_store import RetentionPeriods
from tests.activities.desk import Desk
from tests.delivery.fakes import FakeTemporal
from tests.stores.factories import KEYRING


async def test_headers_of_a_release_before_are_encrypted_by_the_first_pass(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    async with desk.store.database.writing() as session:
        row = await session.get_one(Endpoint, endpoint.gid)
        await endpoints.change(session, row, {"headers": {"x-key": "value"}})
    client: Client = FakeTemporal().client
    passes = RetentionActivities(client, desk.store.database, RetentionPeriods(), KEYRING)
    assert await count_plain_headers(desk.store.database) == 1
    for _ in range(2):
        await ActivityEnvironment().run(passes.apply_retention)
    assert await count_plain_headers(desk.store.database) == 0
    await desk.send(await desk.delivery(endpoint))
    assert desk.receiver.arrivals[0].header("x-key") == "value"
