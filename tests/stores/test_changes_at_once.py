"""Changes and deletions of one resource at the same time, on both databases: the later one finds nothing, and no two
transactions wait for each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence

import httpx
import pytest

from testing.api import Api, created, running_api, settings_for

pytestmark = pytest.mark.both_databases

WEBHOOK = {"post": {"description": "imported"}}
FINE = {200, 201, 202, 204, 404, 409, 422}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        yield running


async def at_once(*calls: Awaitable[httpx.Response]) -> Sequence[int]:
    return [response.status_code for response in await asyncio.gather(*calls)]


async def test_a_channel(api: Api) -> None:
    for n in range(5):
        channel = f"/v1/channels/c{n}"
        await api.channel(f"c{n}")
        changes = [{"policy": {"delaysSeconds": [each]}, "retentionDays": 1, "circuit": None} for each in range(3)]
        statuses = await at_once(
            *(api.patch(channel, body) for body in changes), api.delete(channel), api.delete(channel)
        )
        assert set(statuses) <= FINE and statuses.count(204) == 1


async def test_a_subscription_and_its_endpoint(api: Api) -> None:
    await api.channel()
    for _ in range(5):
        endpoint = (await api.endpoint())["endpointGid"]
        body = {"endpointGid": endpoint, "channel": "orders"}
        gid = created(await api.post("/v1/subscriptions", body))["subscriptionGid"]
        subscription = f"/v1/subscriptions/{gid}"
        statuses = await at_once(
            api.patch(subscription, {"events": ["a"]}),
            api.patch(f"/v1/endpoints/{endpoint}", {"rateLimit": 5}),
            api.delete(subscription),
            api.delete(f"/v1/endpoints/{endpoint}"),
            api.patch(subscription, {"events": ["b"]}),
            api.post("/v1/subscriptions", body),
        )
        assert set(statuses) <= FINE
    assert await api.count("subscription") == 0


async def test_a_subscription_and_its_channel(api: Api) -> None:
    endpoint = (await api.endpoint())["endpointGid"]
    for n in range(5):
        await api.channel(f"c{n}")
        body = {"endpointGid": endpoint, "channel": f"c{n}"}
        made, removed = await at_once(api.post("/v1/subscriptions", body), api.delete(f"/v1/channels/c{n}"))
        assert (made, removed) in ((201, 409), (422, 204))


async def test_an_event_type(api: Api) -> None:
    for n in range(5):
        event_type = f"/v1/event-types/e{n}"
        created(await api.post("/v1/event-types", {"name": f"e{n}"}))
        imported = {"document": {"openapi": "3.1.0", "webhooks": {f"e{n}": WEBHOOK, f"f{n}": WEBHOOK}}}
        statuses = await at_once(
            *(api.patch(event_type, {"description": text}) for text in "abc"),
            api.delete(event_type),
            api.post("/v1/event-types/import", imported),
            api.post("/v1/event-types/import", imported),
        )
        assert set(statuses) <= FINE
