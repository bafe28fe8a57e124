"""Waiting for messages, and the events of their lives. Temporal is stopped in all of these tests."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx
import pytest

from api.dependencies import encode_cursor, list_tag
from everhook.contracts import TERMINAL_STATUSES, DeliveryStatus
from everhook.lifecycle.events import SETTLED_STATUSES, LifecycleEvent
from everhook.lifecycle.service import Viewer
from everhook.lifecycle.watch import CHECK_S
from testing.api import JSON, Api, assert_problem, ok
from testing.waiting import assert_eventually
from tests.api.test_pulling import acks, end_lease, poll, pull_endpoint
from tests.api.test_streaming import Server, Stream, server
from tests.stores.plans import executed

__all__ = ["server"]


async def wait(api: Api, gid: str, timeout: float = 20, **params: Any) -> JSON:
    found: JSON = ok(await api.get(f"/v1/messages/{gid}/wait", timeoutSeconds=timeout, **params))
    return found


async def take_and_ack(api: Api, endpoint: str, **ack: Any) -> None:
    (item,) = await poll(api, endpoint)
    await acks(api, endpoint, acks=[{"lease": item["lease"], **ack}])


async def events(api: Api, gid: str, **params: Any) -> list[JSON]:
    """All events, page by page."""
    found: list[JSON] = []
    cursor: str | None = None
    while True:
        page = ok(await api.get(f"/v1/messages/{gid}/events", **params, **({"cursor": cursor} if cursor else {})))
        found += page["data"]
        cursor = page["nextCursor"]
        if cursor is None:
            return found
        assert len(found) < 1_000


async def follow_kinds(api: Api, gid: str, until: str) -> list[str]:
    """The kinds of the events of a stream, from the service, up to one of the kind `until`."""
    service, found = api.services.lifecycle, list[str]()
    stream = await service.follow(api.services.scope_of(None), Viewer(), gid, None, _always)
    async with aclosing(stream.events()) as arriving, asyncio.timeout(20):
        async for event in arriving:
            if isinstance(event, LifecycleEvent):
                found.append(event.kind.value)
            if found and found[-1] == until:
                return found
    raise AssertionError(found)


async def _always() -> bool:
    return True


async def test_a_sender_gets_the_result_of_the_acknowledgement(api: Api) -> None:
    await api.channel()
    endpoint = await pull_endpoint(api)
    message = await api.publish({"n": 1})
    pending = await wait(api, message["messageGid"], timeout=0)
    assert (pending["state"], pending["outcome"]) == ("pending", None)
    assert pending["deliveries"][0]["completedAt"] is None

    waiting = asyncio.create_task(wait(api, message["messageGid"]))
    await asyncio.sleep(0.05)
    await take_and_ack(api, endpoint, result={"big": 12345678901234567890123, "invoice": "2026-0042"})
    found = await asyncio.wait_for(waiting, 15)
    (delivery,) = found["deliveries"]
    assert (found["state"], found["outcome"], found["moreDeliveries"]) == ("settled", "delivered", False)
    assert (delivery["mode"], delivery["status"], delivery["endpointGid"]) == ("poll", "delivered", endpoint)
    assert delivery["completedAt"] is not None
    assert "replayable" not in delivery
    text = (await api.get(f"/v1/messages/{message['messageGid']}/wait")).text
    assert '"result":{"big": 12345678901234567890123, "invoice": "2026-0042"}' in text


async def test_a_wait_notices_commits_of_another_process(api: Api) -> None:
    await api.channel()
    await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    waiting = asyncio.create_task(wait(api, gid))
    await asyncio.sleep(2 * CHECK_S)
    await api.change_rows("UPDATE delivery SET status = 'dead_lettered', dead_lettered_at = accepted_at")
    found = await asyncio.wait_for(waiting, 15)
    assert (found["state"], found["outcome"]) == ("settled", "dead_lettered")
    assert found["deliveries"][0]["replayable"] is True
    assert "result" not in found["deliveries"][0]


async def test_until_first_returns_with_one_of_two(api: Api) -> None:
    await api.channel()
    first, second = await pull_endpoint(api), await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    waiting = asyncio.create_task(wait(api, gid, until="first"))
    await asyncio.sleep(0.05)
    await take_and_ack(api, first, result=1)
    found = await asyncio.wait_for(waiting, 15)
    assert (found["state"], found["outcome"]) == ("pending", None)
    assert {each["endpointGid"]: each.get("result") for each in found["deliveries"]} == {first: 1, second: None}
    await api.change_rows(
        "UPDATE delivery SET status = 'discarded', completed_at = accepted_at WHERE endpoint_gid = :e", e=second
    )
    assert (await wait(api, gid))["outcome"] == "partly"


async def test_a_message_without_receivers_is_settled(api: Api) -> None:
    await api.channel()
    found = await wait(api, (await api.publish({"n": 1}))["messageGid"])
    assert (found["state"], found["outcome"], found["deliveries"]) == ("settled", None, [])


@pytest.mark.parametrize("timeout", [-1, 56, "long"])
async def test_a_bad_timeout_is_refused(api: Api, timeout: Any) -> None:
    problem = assert_problem(await api.get("/v1/messages/msg_x/wait", timeoutSeconds=timeout), 422)
    assert problem["errors"][0]["field"] == "timeoutSeconds"


async def test_a_publisher_sees_only_its_own_messages(api: Api) -> None:
    await api.channel()
    await pull_endpoint(api)
    own, other, reader = await api.key("publish"), await api.key("publish"), await api.key("read")
    gid = (await own.publish({"n": 1}))["messageGid"]
    for path in ("wait?timeoutSeconds=0", "events", "events/stream"):
        assert_problem(await other.get(f"/v1/messages/{gid}/{path}"), 404)
    for key in (own, reader, api):
        assert (await wait(key, gid, timeout=0))["messageGid"] == gid
        assert len(await events(key, gid)) == 2
    assert_problem(await own.get(f"/v1/messages/{gid}"), 403)
    unsigned = (await api.publish({"n": 1}))["messageGid"]  # the key of the environment has no gid
    assert_problem(await own.get(f"/v1/messages/{unsigned}/wait"), 404)


async def test_a_tenant_waits_for_its_own_deliveries(api: Api) -> None:
    await api.channel()
    ours, theirs = await api.key(tenant=await tenant(api, "ours")), await tenant(api, "theirs")
    own, other = await pull_endpoint(ours), await pull_endpoint(api, tenant=theirs)
    gid = (await api.publish({"n": 1}))["messageGid"]
    await take_and_ack(ours, own, result="mine")
    found = await wait(ours, gid)
    assert [(each["endpointGid"], each["result"]) for each in found["deliveries"]] == [(own, "mine")]
    assert found["outcome"] == "delivered"
    assert {event["endpointGid"] for event in await events(ours, gid)} == {None, own}
    everything = await wait(api, gid, timeout=0)
    assert everything["state"] == "pending"
    assert {each["endpointGid"] for each in everything["deliveries"]} == {own, other}
    foreign = (await api.publish({"n": 1}, tenant=theirs))["messageGid"]
    assert_problem(await ours.get(f"/v1/messages/{foreign}/wait"), 404)


async def tenant(api: Api, name: str) -> str:
    assert (await api.post("/v1/tenants", {"name": name})).status_code == 201
    return name


async def test_all_waiting_requests_share_one_query(api: Api) -> None:
    await api.channel()
    await pull_endpoint(api)
    gids = [(await api.publish({"n": n}))["messageGid"] for n in range(20)]
    waiting = [asyncio.create_task(wait(api, gid, timeout=50)) for gid in gids for _ in range(2)]
    statements = executed(api.database)

    async def is_shared() -> None:
        statements.clear()
        await asyncio.sleep(2 * CHECK_S)
        asked = [each for each in statements if "delivery" in each and "dispatched_at" not in each]
        assert 1 <= len(asked) <= 3, asked
        assert all("GROUP BY delivery.message_gid" in each for each in asked)

    await assert_eventually(is_shared)  # each is woken once by the first check
    assert not any(each.done() for each in waiting)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


async def test_waits_beyond_the_limit_get_a_429_with_retry_after(api: Api) -> None:
    await api.channel()
    await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    service = api.services.lifecycle
    service.limits = replace(service.limits, waits=0, streams=0)
    for path in ("wait", "events/stream"):
        response = await api.get(f"/v1/messages/{gid}/{path}")
        assert_problem(response, 429)
        assert int(response.headers["retry-after"]) >= 1
    await wait(api, gid, timeout=0)  # does not wait


async def test_a_closed_connection_ends_the_wait(server: Server) -> None:
    api = server.api
    await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    async with connect(server) as http:
        asking = asyncio.create_task(http.get(f"/v1/messages/{gid}/wait", params={"timeoutSeconds": 50}))

        async def one_waits() -> None:
            assert api.services.lifecycle._open["waits"] == 1

        await assert_eventually(one_waits)
        asking.cancel()

    async def none_waits() -> None:
        assert not api.services.lifecycle._open["waits"]

    await assert_eventually(none_waits)


def connect(server: Server) -> httpx.AsyncClient:
    headers = {"authorization": server.api.http.headers["authorization"]}
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", headers=headers, trust_env=False, timeout=30)


async def test_the_events_of_a_message_page_by_page(api: Api) -> None:
    await api.channel()
    endpoint = await pull_endpoint(api)
    http = await api.endpoint(channel="orders")
    gid = (await api.publish({"n": 1}))["messageGid"]
    (item,) = await poll(api, endpoint)
    await acks(api, endpoint, nacks=[{"lease": item["lease"], "reason": "later"}])
    await end_lease(api, endpoint)
    await take_and_ack(api, endpoint)
    await api.change_rows(
        "UPDATE delivery SET status = 'discarded', completed_at = accepted_at, decided_by = 'ann' "
        "WHERE endpoint_gid = :e",
        e=http["endpointGid"],
    )
    found = await events(api, gid)
    of = {name: [e["kind"] for e in found if e["endpointGid"] == name] for name in (endpoint, http["endpointGid"])}
    assert of[endpoint] == ["delivery.available", "delivery.attempted", "delivery.attempted", "delivery.delivered"]
    assert of[http["endpointGid"]] == ["delivery.discarded"]
    assert (found[0]["kind"], found[0]["id"]) == ("message.accepted", gid)
    assert (found[-1]["kind"], found[-1]["data"]) == ("message.settled", {"outcome": "partly"})
    attempted = [event for event in found if event["kind"] == "delivery.attempted"]
    assert [(e["data"]["number"], e["data"]["verdict"], e["data"]["error"]) for e in attempted] == [
        (1, "retry", "nacked"),
        (2, "delivered", None),
    ]
    rows = await api.rows("SELECT gid FROM attempt ORDER BY number")
    assert [event["id"] for event in attempted] == [row.gid for row in rows]
    assert len({event["id"] for event in found}) == len(found)
    for limit in (1, 2, 3, 5):
        assert await events(api, gid, limit=limit) == found


async def test_a_round_that_was_replayed(api: Api) -> None:
    await api.channel()
    endpoint = await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    (item,) = await poll(api, endpoint)
    await acks(api, endpoint, nacks=[{"lease": item["lease"], "deadLetter": True}])
    await api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', reason = 'rejected', dead_lettered_at = accepted_at"
    )
    before = await events(api, gid)
    await api.change_rows("INSERT INTO delivery_round SELECT gid, 2, accepted_at FROM delivery")
    await api.change_rows(
        "UPDATE delivery SET status = 'available', reason = NULL, dead_lettered_at = NULL, round = 2, attempts = 0, "
        "decided_by = 'ann', decided_why = 'fixed'"
    )
    after = await events(api, gid)
    assert [event["kind"] for event in before] == [
        "message.accepted",
        "delivery.available",
        "delivery.attempted",
        "delivery.dead_lettered",
        "message.settled",
    ]
    assert [event["id"] for event in after[:-1]] == [event["id"] for event in before[:-1]]
    assert (after[-1]["kind"], after[-1]["data"]) == (
        "delivery.replayed",
        {"round": 2, "by": "ann", "reason": "fixed"},
    )


async def test_a_bad_cursor_is_refused(api: Api) -> None:
    await api.channel()
    gid = (await api.publish({"n": 1}))["messageGid"]
    path = f"/v1/messages/{gid}/events"
    for cursor in ("eA", encode_cursor("msg_x", list_tag(path, ()))):
        problem = assert_problem(await api.get(path, cursor=cursor), 422)
        assert problem["errors"][0]["field"] == "cursor"


async def follow(http: httpx.AsyncClient, gid: str, last: str | None = None) -> tuple[Stream, asyncio.Task[None]]:
    headers = {"last-event-id": last} if last is not None else {}
    request = http.build_request("GET", f"/v1/messages/{gid}/events/stream", headers=headers)
    response = await http.send(request, stream=True)
    assert response.status_code == 200, (await response.aread()).decode()
    assert response.headers["content-type"].startswith("text/event-stream")
    stream = Stream(response)
    reading = asyncio.create_task(stream.read())
    hello = await stream.next()
    assert (hello.name, hello.data) == ("hello", {"messageGid": gid})
    return stream, reading


async def test_a_stream_of_events_is_resumed(server: Server) -> None:
    api = server.api
    endpoint = await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    async with connect(server) as http:
        stream, reading = await follow(http, gid)
        first = [await stream.next() for _ in range(2)]
        assert [event.name for event in first] == ["message.accepted", "delivery.available"]
        await take_and_ack(api, endpoint)
        rest = [await stream.next() for _ in range(3)]
        assert [event.name for event in rest] == ["delivery.attempted", "delivery.delivered", "message.settled"]
        assert [event.data for event in (*first, *rest)] == await events(api, gid)
        assert await stream.is_silent()
        reading.cancel()
        await stream.response.aclose()

        again, reading = await follow(http, gid, rest[0].id)
        assert [(await again.next()).id for _ in range(5)] == [event.id for event in (*first, *rest)]
        reading.cancel()
        await again.response.aclose()

        await api.change_rows("UPDATE delivery SET accepted_at = :past", past="2026-01-01 00:00:00.000000")
        await api.change_rows("UPDATE message SET accepted_at = :past", past="2026-01-01 00:00:00.000000")
        later, reading = await follow(http, gid, rest[0].id)
        assert [(await later.next()).id for _ in range(3)] == [event.id for event in rest]
        reading.cancel()
        await later.response.aclose()


async def test_a_stream_ends_with_the_server_with_its_time_and_with_its_key(server: Server) -> None:
    api, service = server.api, server.api.services.lifecycle
    await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    limits = service.limits
    async with connect(server) as http:
        service.limits = replace(limits, lifetime=(0.3, 0.3), keep_alive=0.1)
        assert (await last_event(http, gid)) == {"reason": "rotate"}
        service.limits = replace(limits, check=0.1)
        made = (await api.post("/v1/api-keys", {"name": "r", "scopes": ["read"]})).json()
        http.headers["authorization"] = f"Bearer {made['key']}"
        ending = asyncio.create_task(last_event(http, gid))
        await asyncio.sleep(0.2)
        await api.delete(f"/v1/api-keys/{made['keyGid']}")
        assert await ending == {"reason": "closed"}
    async with connect(server) as http:
        ending, waiting = asyncio.create_task(last_event(http, gid)), asyncio.create_task(wait(api, gid))
        await asyncio.sleep(0.2)
        service.end()
        assert await asyncio.wait_for(ending, 15) == {"reason": "shutdown"}
        assert (await asyncio.wait_for(waiting, 15))["state"] == "pending"
    assert service._open["streams"] == 0


async def last_event(http: httpx.AsyncClient, gid: str) -> JSON:
    text = (await asyncio.wait_for(http.get(f"/v1/messages/{gid}/events/stream"), 15)).text
    name, data = text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: bye"
    found: JSON = json.loads(data.removeprefix("data: "))
    return found


async def test_a_message_with_very_many_deliveries_is_listed_but_not_followed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everhook.lifecycle.service.MAX_FOLLOWED", 1)
    await api.channel()
    for _ in range(2):
        await pull_endpoint(api)
    gid = (await api.publish({"n": 1}))["messageGid"]
    refused = await asyncio.wait_for(api.get(f"/v1/messages/{gid}/events/stream"), 15)
    problem = assert_problem(refused, 409)
    assert "/events" in problem["detail"]
    assert len(await events(api, gid)) == 3


def test_statuses_that_settle_are_all_that_end() -> None:
    assert TERMINAL_STATUSES | {DeliveryStatus.DEAD_LETTERED} == SETTLED_STATUSES
