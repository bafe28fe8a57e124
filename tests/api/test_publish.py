"""Publishing, with Temporal stopped: what is accepted, what is stored, and which publishes are duplicates."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from everhook.observability.metrics import REGISTRY
from testing.api import JSON, Api, accepted, assert_problem, created, ok

PAYLOADS = [
    b'{ "b":1,\n\t"a" : [1, 2 ]}',
    b'{"a":1,"a":2}',
    b'{"n":123456789012345678901234567890}',
    b"9" * 5_000,
    b"[1e400,-1e400,1E+2,0.10,-0]",
    b'"\\u0000"',
    b'"\\u00fc \\/ \\ud83d\\ude00"',
    '"ü 😀"'.encode(),
    b"[" * 900 + b"]" * 900,
    b"null",
    b"false",
    b"0",
    b'""',
    b"{}",
]


async def test_a_publish_returns_the_deliveries_of_its_message(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint(channel="orders")
    began = datetime.now(UTC)

    message = await api.publish({"orderId": 1})

    assert message.keys() == {"messageGid", "channel", "type", "publishedAt", "deliverAt", "duplicate", "deliveries"}
    assert (message["channel"], message["type"], message["duplicate"]) == ("orders", "order.created", False)
    assert abs(datetime.fromisoformat(message["publishedAt"]) - began) < timedelta(minutes=1)
    (delivery,) = message["deliveries"]
    assert delivery.keys() == {"deliveryGid", "endpointGid", "status"}
    assert (delivery["endpointGid"], delivery["status"]) == (endpoint["endpointGid"], "accepted")


async def test_a_message_is_committed_when_202_is_returned_and_not_yet_started(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")

    message = await api.publish({"orderId": 1}, idempotencyKey="k", publishedAt="2026-01-31T13:00:00.123+01:00")

    (row,) = await api.rows("SELECT gid, channel, event_type, payload, idempotency_key, published_at FROM message")
    assert tuple(row)[:5] == (message["messageGid"], "orders", "order.created", b'{"orderId": 1}', "k")
    assert message["publishedAt"] == "2026-01-31T12:00:00.123Z"
    (delivery,) = await api.rows("SELECT gid, message_gid, status, dispatched_at FROM delivery")
    gid = message["deliveries"][0]["deliveryGid"]
    assert tuple(delivery) == (gid, message["messageGid"], "accepted", None)


async def test_replays_and_history_give_way_to_a_publish_in_any_mode_of_its_endpoints(api: Api) -> None:
    await api.channel()
    traffic = api.services.messages._dispatcher.traffic
    assert not traffic.flows

    await api.publish({"orderId": 1})

    assert (traffic.flows, traffic.is_busy) == (True, False)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: repr(payload[:30]))
async def test_a_payload_is_stored_and_shown_byte_for_byte(api: Api, payload: bytes) -> None:
    await api.channel()

    message = accepted(await api.try_publish(b'{"type":"a" , "payload" :  ' + payload + b" }"))

    assert [row[0] for row in await api.rows("SELECT payload FROM message")] == [payload]
    shown = await api.get(f"/v1/messages/{message['messageGid']}")
    assert shown.status_code == 200
    assert b'"payload":' + payload + b"," in shown.content + b"," or b'"payload":' + payload + b"}" in shown.content


async def test_a_payload_of_exactly_the_limit_is_accepted(api: Api) -> None:
    await api.channel()
    limit = api.services.settings.max_payload_bytes
    fitting = b'"' + b"x" * (limit - 2) + b'"'

    accepted(await api.try_publish(b'{"type":"a","payload":' + fitting + b"}"))

    (row,) = await api.rows("SELECT length(payload) FROM message")
    assert row[0] == limit


async def test_the_type_falls_back_to_the_payloads_event(api: Api) -> None:
    await api.channel()

    assert accepted(await api.try_publish({"payload": {"event": "order.paid"}}))["type"] == "order.paid"
    assert accepted(await api.try_publish({"payload": {"event": "order.paid"}, "type": "x"}))["type"] == "x"
    assert accepted(await api.try_publish({"payload": {"event": "a"}, "type": None}))["type"] == "a"


@pytest.mark.parametrize("payload", [{}, {"event": 5}, {"event": None}, [], "event", None, {"event": "a b"}])
async def test_a_publish_without_a_type_names_the_field(api: Api, payload: object) -> None:
    await api.channel()

    assert_problem(await api.try_publish({"payload": payload}), 422, "type")
    assert await api.count("message") == 0


async def test_a_key_in_field_or_header_makes_publishing_idempotent(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    body: JSON = {"type": "a", "payload": {"n": 1}}
    first = accepted(await api.try_publish({**body, "idempotencyKey": "k"}))

    for again in [
        await api.try_publish({**body, "idempotencyKey": "k"}),
        await api.try_publish(body, headers={"idempotency-key": "k"}),
        await api.try_publish({**body, "idempotencyKey": "k"}, headers={"idempotency-key": "k"}),
    ]:
        assert accepted(again) == {**first, "duplicate": True}
    assert (await api.count("message"), await api.count("delivery")) == (1, 1)


async def test_two_keys_that_differ_are_refused(api: Api) -> None:
    await api.channel()
    body = {"type": "a", "payload": 1, "idempotencyKey": "k"}

    assert_problem(await api.try_publish(body, headers={"idempotency-key": "other"}), 422, "idempotencyKey")
    assert await api.count("message") == 0


@pytest.mark.parametrize("other", [{"payload": 2}, {"payload": 1, "type": "b"}])
async def test_a_key_used_with_another_body_is_a_conflict(api: Api, other: JSON) -> None:
    await api.channel()
    first = accepted(await api.try_publish({"type": "a", "payload": 1, "idempotencyKey": "k"}))

    problem = assert_problem(await api.try_publish({"type": "a", "idempotencyKey": "k", **other}), 409)

    assert "idempotencyKey" in problem["detail"]
    assert first["messageGid"] in problem["detail"]
    assert await api.count("message") == 1


async def test_a_key_holds_for_its_channel_and_tenant(api: Api) -> None:
    for name in ("orders", "invoices"):
        await api.channel(name)
    await api.endpoint(tenant="acme")
    body = {"type": "a", "payload": 1, "idempotencyKey": "k"}

    bodies = [
        accepted(await api.try_publish(body)),
        accepted(await api.try_publish(body, "invoices")),
        accepted(await api.try_publish({**body, "tenant": "acme"})),
    ]

    assert [each["duplicate"] for each in bodies] == [False, False, False]
    assert len({each["messageGid"] for each in bodies}) == 3


async def test_without_a_key_the_same_body_is_another_message(api: Api) -> None:
    await api.channel()

    assert (await api.publish(1))["messageGid"] != (await api.publish(1))["messageGid"]


@pytest.mark.parametrize("key", ["", "a\n", "a\x00", "\x7f", "x" * 256])
async def test_a_bad_key_is_refused(api: Api, key: str) -> None:
    await api.channel()

    assert_problem(await api.try_publish({"type": "a", "payload": 1, "idempotencyKey": key}), 422, "idempotencyKey")


async def test_a_thousand_duplicates_at_once_are_one_message(api: Api) -> None:
    await api.channel()
    for _ in range(2):
        await api.endpoint(channel="orders")
    body = {"type": "a", "payload": {"n": 1}, "idempotencyKey": "k"}

    responses = await asyncio.gather(*(api.try_publish(body) for _ in range(1000)))

    bodies = [accepted(response) for response in responses]
    assert sum(not each.pop("duplicate") for each in bodies) == 1
    assert all(each == bodies[0] for each in bodies)
    assert (await api.count("message"), await api.count("delivery")) == (1, 2)


async def test_a_thousand_concurrent_bodies_with_one_key_are_one_message_and_conflicts(api: Api) -> None:
    await api.channel()

    responses = await asyncio.gather(
        *(api.try_publish({"type": "a", "payload": n, "idempotencyKey": "k"}) for n in range(1000))
    )

    statuses = [response.status_code for response in responses]
    assert (statuses.count(202), statuses.count(409)) == (1, 999)
    (row,) = await api.rows("SELECT payload FROM message")
    assert row[0] == str(statuses.index(202)).encode()


async def test_a_message_reaches_all_tenants_unless_it_names_one(api: Api) -> None:
    await api.channel()
    of = {tenant: (await api.endpoint(channel="orders", tenant=tenant))["endpointGid"] for tenant in ("a", "b")}

    assert {d["endpointGid"] for d in (await api.publish())["deliveries"]} == set(of.values())
    targeted = await api.publish(tenant="b")
    assert [d["endpointGid"] for d in targeted["deliveries"]] == [of["b"]]
    assert ok(await api.get(f"/v1/messages/{targeted['messageGid']}"))["tenant"] == "b"


async def test_an_unknown_tenant_is_named(api: Api) -> None:
    await api.channel()

    assert_problem(await api.try_publish({"type": "a", "payload": 1, "tenant": "acme"}), 422, "tenant")
    assert await api.count("message") == 0


async def test_an_unknown_channel_is_not_found(api: Api) -> None:
    problem = assert_problem(await api.try_publish({"type": "a", "payload": 1}, "ordres"), 404)

    assert "ordres" in problem["detail"]
    assert_problem(await api.try_publish({"type": "a", "payload": 1}, "a%20b"), 422, "name")
    assert await api.count("message") == 0


@pytest.mark.parametrize("conditions", [{"a": {"$new": 1}}, {"a": {"$prefix": 1}}, {"$any": 1}, {"a": {"$in": 1}}])
async def test_a_filter_that_cannot_be_evaluated_refuses_the_messages_that_depend_on_it(
    api: Api, conditions: JSON
) -> None:
    await api.channel()
    bad = await api.endpoint(channel="orders", events=["order.*"], tenant="acme")
    await api.endpoint(channel="orders", tenant="other")
    await change(api, "subscription", "filter", conditions, "endpoint_gid = :gid", gid=bad["endpointGid"])

    async def publish(**body: Any) -> httpx.Response:
        return await api.try_publish({"type": "order.created", "payload": {"a": "b"}, **body})

    with capture_logs() as logs:
        refused, other_tenant, other_type = await asyncio.gather(
            publish(), publish(tenant="other"), publish(type="invoice.paid")
        )
    assert assert_problem(refused, 503)["type"] == "/problems/unavailable"
    assert [len(accepted(each)["deliveries"]) for each in (other_tenant, other_type)] == [1, 1]
    assert bad["endpointGid"] in [line.get("endpoint_gid") for line in logs]
    assert await api.count("message") == 2


async def test_a_gate_that_cannot_be_evaluated_refuses_its_messages(api: Api) -> None:
    await api.channel()
    inbox = created(await api.post("/v1/endpoints", {"mode": "inbox", "options": {"name": "Managers"}}))
    for steps, status in (([{"inbox": inbox["endpointGid"], "filter": {"a": {"$new": 1}}}], 503), ([{}], 422)):
        await change(api, "channel", "gates", steps, "name = 'orders'")
        assert_problem(await api.try_publish({"type": "a", "payload": {}}), status)
        accepted(await api.try_publish({"type": "a", "payload": {}, "gates": []}))


@pytest.mark.parametrize(
    "policy", [{"preset": "new"}, {"timeoutSeconds": "1"}, {"jitter": "x"}, {"exponential": {}}, [1]]
)
async def test_deliveries_do_without_a_policy_that_cannot_be_read(api: Api, policy: Any) -> None:
    await api.channel(policy={"preset": "brisk"})
    gid = (await api.endpoint(channel="orders"))["endpointGid"]
    await change(api, "endpoint", "policy", policy, "gid = :gid", gid=gid)
    with capture_logs() as logs:
        [delivery] = (await api.publish({}))["deliveries"]
    assert gid in [line.get("endpoint_gid") for line in logs]
    [shown] = ok(await api.get(f"/v1/deliveries/{delivery['deliveryGid']}"))["rounds"]
    assert shown["policy"]["delaysSeconds"] == [1, 5, 15, 30, 60]


async def change(api: Api, table: str, column: str, value: Any, where: str, **names: Any) -> None:
    """Store what no request can set, as another version may have done."""
    await api.change_rows(f"UPDATE {table} SET {column} = :value WHERE {where}", value=json.dumps(value), **names)
    await api.change_rows("UPDATE channel SET routes_version = routes_version + 1")


async def test_test_messages_are_counted_as_accepted_and_repetitions_are_not(api: Api) -> None:
    def accepted() -> float:
        return REGISTRY.get_sample_value("everhook_messages_accepted_total") or 0.0

    await api.channel()
    endpoint = await api.endpoint(channel="orders")
    before = accepted()
    for _ in range(2):
        await api.try_publish({"type": "a", "payload": 1, "idempotencyKey": "once"})
    assert accepted() == before + 1
    assert (await api.post(f"/v1/endpoints/{endpoint['endpointGid']}/test", {})).status_code == 202
    assert accepted() == before + 2
