"""Events about dead letters with the payload of the message, on both databases. Temporal is stopped."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from everhook.contracts import DeadLetterReason
from everhook.delivery.dead_payloads_store import with_payloads
from everhook.delivery.store import dead_letter
from everhook.notifications.publisher_store import EventPublisher
from everhook.pulling import service as pulling
from everhook.storage.tables import now
from testing.api import Api, assert_problem, created, ok, running_api, settings_for

pytestmark = pytest.mark.both_databases

PAYLOAD = b'{"n": 1.10,"n": 1e400}'
"""What does not survive being parsed."""

LARGE = 256 * 1024


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        await running.channel()
        yield running


async def subscribed(api: Api, tenant: str = "default", **subscription: Any) -> tuple[str, str]:
    """An endpoint that polls for events, and its subscription."""
    endpoint = created(await api.post("/v1/endpoints", {"mode": "poll", "tenant": tenant}))["endpointGid"]
    wanted = {"endpointGid": endpoint, "channel": "everhook.events", "events": ["delivery.*"], **subscription}
    return endpoint, created(await api.post("/v1/subscriptions", wanted))["subscriptionGid"]


async def dead(api: Api, payload: bytes = PAYLOAD) -> str:
    """Dead-letter the delivery of a message; the gid of the message."""
    body = b'{"type": "order.created", "payload": %b}' % payload
    response = await api.try_publish(body)
    assert response.status_code == 202
    (delivery,) = response.json()["deliveries"]
    async with api.database.writing() as session:
        await dead_letter(session, delivery["deliveryGid"], 1, DeadLetterReason.REJECTED, now() + timedelta(days=1))
    gid: str = response.json()["messageGid"]
    return gid


async def publish_events(api: Api) -> None:
    await EventPublisher(api.database, api.services.messages._acceptor).publish_some()


async def polled(api: Api, endpoint: str) -> list[str]:
    """The payloads of the items, as they are sent."""
    response = await api.get(f"/v1/endpoints/{endpoint}/poll", waitSeconds=0, limit=100)
    ok(response)
    return [
        each.partition('"payload":')[2].partition(',"metadata":')[0] for each in response.text.split('{"lease":')[1:]
    ]


async def test_a_subscription_that_asks_for_it_gets_the_payload_and_another_does_not(api: Api) -> None:
    await api.endpoint(channel="orders", tenant="acme")
    with_it, _ = await subscribed(api, includePayload=True)
    without, _ = await subscribed(api)
    own, _ = await subscribed(api, tenant="acme", includePayload=True)
    others, _ = await subscribed(api, tenant="globex", includePayload=True)
    await dead(api)
    await publish_events(api)
    for endpoint in (with_it, own):
        (item,) = await polled(api, endpoint)
        assert f'"payload":{PAYLOAD.decode()},"payloadOmitted":null' in item
    (item,) = await polled(api, without)
    assert "payloadOmitted" not in item and "1e400" not in item
    assert await polled(api, others) == []
    rows = await api.rows("SELECT payload FROM message WHERE channel = 'everhook.events'")
    rows += await api.rows("SELECT data FROM operational_event")
    assert rows and not any("1e400" in str(row) for row in rows)


async def test_an_erased_payload_and_one_that_is_too_large_are_null_with_the_reason(api: Api) -> None:
    await api.endpoint(channel="orders")
    endpoint, _ = await subscribed(api, includePayload=True)
    gid = await dead(api)
    await publish_events(api)
    assert (await api.delete(f"/v1/messages/{gid}/payload")).status_code in (200, 202, 204)
    await dead(api, b'"%b"' % (b"x" * (LARGE - 100)))
    await publish_events(api)
    data = [json.loads(item)["data"] for item in await polled(api, endpoint)]
    assert sorted((each["payload"], each["payloadOmitted"]) for each in data) == [(None, "erased"), (None, "too_large")]


async def test_a_poll_takes_no_more_than_fits_and_the_next_one_takes_the_rest(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.endpoint(channel="orders")
    endpoint, _ = await subscribed(api, includePayload=True)
    for _ in range(3):
        await dead(api, b'"%b"' % (b"x" * 5_000))
    await publish_events(api)
    monkeypatch.setattr(pulling, "MAX_BYTES", 11_500)
    assert [len(await polled(api, endpoint)) for _ in range(3)] == [2, 1, 0]


async def test_the_setting_counts_when_the_event_is_sent(api: Api) -> None:
    await api.endpoint(channel="orders")
    _, subscription = await subscribed(api)
    await dead(api)
    await publish_events(api)
    (row,) = await api.rows(
        "SELECT d.gid, m.payload FROM delivery d JOIN message m ON m.gid = d.message_gid "
        "WHERE d.channel = 'everhook.events'"
    )

    async def sent() -> bytes:
        async with api.database.read_connection() as connection:
            return (await with_payloads(connection, {row.gid: row.payload}, max_bytes=LARGE))[row.gid]

    assert await sent() == row.payload
    for wanted in (True, False):
        ok(await api.patch(f"/v1/subscriptions/{subscription}", {"includePayload": wanted}))
        assert (PAYLOAD in await sent()) is wanted
    ok(await api.patch(f"/v1/subscriptions/{subscription}", {"includePayload": True}))
    assert (await api.delete(f"/v1/subscriptions/{subscription}")).status_code == 204
    assert await sent() == row.payload


async def test_include_payload_is_refused_on_other_channels_and_to_tenants(api: Api) -> None:
    endpoint, own = await subscribed(api, tenant="acme")
    for channel in ("orders", "everhook.tasks"):
        wanted = {"endpointGid": endpoint, "channel": channel, "includePayload": True}
        refused = assert_problem(await api.post("/v1/subscriptions", wanted), 422, "includePayload")
        assert "everhook.events" in refused["errors"][0]["message"]
    other = created(await api.post("/v1/subscriptions", {"endpointGid": endpoint, "channel": "orders"}))
    assert other["includePayload"] is False
    path = f"/v1/subscriptions/{other['subscriptionGid']}"
    assert_problem(await api.patch(path, {"includePayload": True}), 422, "includePayload")
    assert ok(await api.patch(path, {"includePayload": False}))["includePayload"] is False
    theirs = await api.key(tenant="acme")
    assert_problem(await theirs.patch(f"/v1/subscriptions/{own}", {"includePayload": True}), 422, "includePayload")
    assert await api.count("subscription") == 2
