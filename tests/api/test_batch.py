"""Publishing many in one call: all of them in one transaction, or none."""

import json
from typing import Any

import pytest

from testing.api import ON_SHARED, Api, accepted, assert_problem


def message(n: int, **body: Any) -> dict[str, Any]:
    return {"type": "a", "payload": {"n": n}, **body}


async def test_the_results_of_five_hundred_messages_are_in_the_order_of_the_request(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")

    results = accepted(await api.try_batch([message(n) for n in range(500)]))["data"]

    assert len(results) == 500
    payloads = dict(tuple(row) for row in await api.rows("SELECT gid, payload FROM message"))
    assert [json.loads(payloads[result["messageGid"]])["n"] for result in results] == list(range(500))
    assert all(len(result["deliveries"]) == 1 for result in results)
    assert await api.count("delivery") == 500


@ON_SHARED
@pytest.mark.parametrize("count", [0, 501])
async def test_a_batch_of_none_or_more_than_five_hundred_messages_is_refused(shared: Api, count: int) -> None:
    assert_problem(await shared.try_batch([message(n) for n in range(count)]), 422, "messages")
    assert await shared.count("message") == 0


@ON_SHARED
@pytest.mark.parametrize(
    ("bad", "status", "field"),
    [
        (b'{"type":"a"}', 422, "messages[1].payload"),
        (b'{"type":5,"payload":1}', 422, "messages[1].type"),
        (b'{"type":"a b","payload":1}', 422, "messages[1].type"),
        (b'{"payload":1}', 422, "messages[1].type"),
        (b'{"type":"a","payload":1,"zap":1}', 422, "messages[1].zap"),
        (b'{"type":"a","payload":1,"tenant":"nobody"}', 422, "messages[1].tenant"),
        (b'{"type":"a","payload":1,"idempotencyKey":""}', 422, "messages[1].idempotencyKey"),
        (b'{"type":"a","payload":1,"publishedAt":"2026-01-31T12:00:00"}', 422, "messages[1].publishedAt"),
        (b'{"type":"a","payload":1,"publishedAt":"0001-01-01T00:00:00+14:00"}', 422, "messages[1].publishedAt"),
        (b'{"type":"a","payload":"\xff"}', 400, "messages[1].payload"),
        (b'{"type":"a","payload":"' + b"x" * 256 * 1024 + b'"}', 413, "messages[1].payload"),
        (b"7", 422, "messages[1]"),
        (b"[" * 100_000, 422, "messages[1]"),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_one_bad_message_refuses_all_and_is_named(shared: Api, bad: bytes, status: int, field: str) -> None:
    good = json.dumps(message(1)).encode()

    response = await shared.try_batch(b'{"messages":[' + good + b"," + bad + b"," + good + b"]}")

    problem = assert_problem(response, status)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await shared.count("message") == 0


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "field"),
    [(b"{}", "messages"), (b'{"messages":{}}', "messages"), (b'{"messages":[],"x":1}', "x"), (b"[]", "body")],
)
async def test_a_wrong_shape_is_named(shared: Api, body: bytes, field: str) -> None:
    assert_problem(await shared.try_batch(body), 422, field)


async def test_a_conflict_is_reported_in_its_place_and_the_others_are_accepted(api: Api) -> None:
    await api.channel()
    first = await api.publish({"n": 0}, type="a", idempotencyKey="k")

    good, conflict, repeat, other = accepted(
        await api.try_batch([message(1), message(2, idempotencyKey="k"), message(0, idempotencyKey="k"), message(3)])
    )["data"]

    assert (conflict["status"], conflict["title"]) == (409, "Idempotency key reused")
    assert first["messageGid"] in conflict["detail"]
    assert (repeat["messageGid"], repeat["duplicate"]) == (first["messageGid"], True)
    assert not good["duplicate"] and not other["duplicate"]
    assert await api.count("message") == 3


async def test_a_key_twice_in_one_batch_is_one_message(api: Api) -> None:
    await api.channel()

    first, second, third = accepted(
        await api.try_batch([message(1, idempotencyKey="k")] * 2 + [message(2, idempotencyKey="k")])
    )["data"]

    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["messageGid"] == second["messageGid"]
    assert third["status"] == 409
    assert await api.count("message") == 1


async def test_each_message_of_a_batch_is_delivered_to_its_own_tenant(api: Api) -> None:
    await api.channel()
    of = {tenant: (await api.endpoint(channel="orders", tenant=tenant))["endpointGid"] for tenant in ("a", "b")}

    results = accepted(await api.try_batch([message(1, tenant="a"), message(2, tenant="b"), message(3)]))["data"]

    got = [{delivery["endpointGid"] for delivery in result["deliveries"]} for result in results]
    assert got == [{of["a"]}, {of["b"]}, set(of.values())]


async def test_an_unknown_channel_is_not_found(api: Api) -> None:
    assert_problem(await api.try_batch([message(1)], "ordres"), 404)
    assert await api.count("message") == 0


async def test_the_payloads_are_stored_byte_for_byte(api: Api) -> None:
    await api.channel()

    accepted(
        await api.try_batch(b'{"messages":[{"type":"a","payload": {"a" :1,"a":2 } },{"type":"a","payload":1e400}]}')
    )

    assert [row[0] for row in await api.rows("SELECT payload FROM message ORDER BY gid")] == [
        b'{"a" :1,"a":2 }',
        b"1e400",
    ]
