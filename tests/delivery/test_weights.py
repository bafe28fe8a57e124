"""How changed rate limits reach Temporal, with a real server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from everhook.delivery import weights
from everhook.delivery.limits import UNLIMITED
from everhook.delivery.weights import apply_limit, sync_limits
from everhook.endpoints import store as endpoints
from everhook.temporal.client import connect
from testing.temporal_server import NAMESPACE, TemporalServer
from testing.waiting import assert_eventually
from tests.stores.factories import Store


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with TemporalServer(tmp_path) as server:
        yield await connect(target_host=server.address, namespace=NAMESPACE)


async def overrides(client: Client) -> dict[str, float]:
    return dict(await weights._overrides(client))


async def shows(client: Client, expected: dict[str, float]) -> None:
    """Wait until the server shows these overrides: a busy one returns those before for a while."""

    async def are_shown() -> None:
        assert await overrides(client) == pytest.approx(expected)

    await assert_eventually(are_shown)


async def test_more_overrides_than_the_server_holds_make_room_for_the_latest(client: Client) -> None:
    await weights._update(client, {f"ep_{number}": 5.0 for number in range(weights.MAX_OVERRIDES)})
    await apply_limit(client, "ep_7", 9.0)

    async def is_changed() -> None:
        assert (await overrides(client))["ep_7"] == 9.0

    await assert_eventually(is_changed)
    await apply_limit(client, "ep_new", None)

    async def has_room() -> None:
        left = await overrides(client)
        assert left.get("ep_new") == UNLIMITED
        assert len(left) < 10

    await assert_eventually(has_room)


async def test_a_sync_applies_the_limits_that_changed_while_temporal_was_away(store: Store, client: Client) -> None:
    raised, kept, lifted = [await store.endpoint(rate_limit=0.3) for _ in range(3)]
    for endpoint in (raised, kept, lifted):
        await apply_limit(client, endpoint.gid, 0.3)
    await apply_limit(client, "ep_gone", 5.0)
    before = dict.fromkeys((raised.gid, kept.gid, lifted.gid), 0.3)
    await shows(client, before | {"ep_gone": 5.0})
    assert await sync_limits(client, store.database) == 1
    await shows(client, before)
    async with store.database.writing() as session:
        await endpoints.change(session, raised, {"rate_limit": 50.0})
        await endpoints.change(session, lifted, {"rate_limit": None})

    assert await sync_limits(client, store.database) == 2
    await shows(client, {raised.gid: 50.0, kept.gid: 0.3, lifted.gid: UNLIMITED})
    assert await sync_limits(client, store.database) == 0
