"""Polling and acknowledging over HTTP. Temporal is stopped in all of these tests: nothing here needs it."""

import asyncio
from typing import Any

import pytest

from testing.api import JSON, Api, assert_problem, created, ok


async def pull_endpoint(api: Api, mode: str = "poll", **body: Any) -> str:
    """An endpoint that subscribes to everything on `orders`."""
    made = created(await api.post("/v1/endpoints", {"mode": mode, "channel": "orders", **body}))
    gid: str = made["endpointGid"]
    return gid


async def poll(api: Api, gid: str, **params: Any) -> list[JSON]:
    items: list[JSON] = ok(await api.get(f"/v1/endpoints/{gid}/poll", **params))["data"]
    return items


async def acks(api: Api, gid: str, **lines: Any) -> list[JSON]:
    results: list[JSON] = ok(await api.post(f"/v1/endpoints/{gid}/acks", lines))["data"]
    return results


async def end_lease(api: Api, gid: str) -> None:
    """End the open leases of an endpoint, and the delays after them."""
    await api.rows(
        "UPDATE pull_queue SET lease_until = :past, available_at = :past WHERE endpoint_gid = :gid RETURNING 1",
        gid=gid,
        past="2026-01-01 00:00:00.000000",
    )


@pytest.mark.parametrize("mode", ["poll", "stream"])
async def test_a_message_is_pulled_and_acknowledged_with_a_result(api: Api, mode: str) -> None:
    await api.channel()
    gid = await pull_endpoint(api, mode)
    published = await api.publish({"orderId": 1042})
    (delivery,) = published["deliveries"]
    assert delivery["status"] == "available"
    (item,) = await poll(api, gid, consumer="worker-3")
    assert item["payload"] == {"orderId": 1042}
    assert (item["messageGid"], item["deliveryGid"]) == (published["messageGid"], delivery["deliveryGid"])
    assert (item["channelName"], item["type"]) == ("orders", "order.created")
    assert item["lease"] == f"{delivery['deliveryGid']}.1.1"
    assert await poll(api, gid) == []  # it is leased
    (result,) = await acks(api, gid, acks=[{"lease": item["lease"], "result": {"invoice": "2026-0042"}}])
    assert (result["status"], result["duplicate"]) == ("acked", False)
    shown = ok(await api.get(f"/v1/deliveries/{delivery['deliveryGid']}"))
    assert shown["status"] == "delivered"
    (attempt,) = shown["attempts"]
    assert (attempt["verdict"], attempt["number"], attempt["receiptGid"] is not None) == ("delivered", 1, True)
    body = await api.rows("SELECT response_body FROM attempt")
    assert body[0].response_body == b'{"invoice": "2026-0042"}'
    assert (await api.rows("SELECT count(*) AS n FROM pull_queue"))[0].n == 0
    (again,) = await acks(api, gid, acks=[{"lease": item["lease"]}])
    assert (again["status"], again["duplicate"]) == ("acked", True)


async def test_a_result_that_is_no_utf_8_acknowledges_nothing(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api)
    await api.publish({"orderId": 1042})
    (item,) = await poll(api, gid)
    line = b'{"acks": [{"lease": "%s", "result": "\xff"}]}' % item["lease"].encode()
    refused = await api.http.post(f"/v1/endpoints/{gid}/acks", content=line)
    assert (refused.status_code, "0xff" in refused.text) == (400, True), refused.text
    (result,) = await acks(api, gid, acks=[{"lease": item["lease"]}])
    assert (result["status"], result["duplicate"]) == ("acked", False)


async def test_consumers_share_the_work(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api)
    for n in range(30):
        await api.publish({"n": n})
    taken = await asyncio.gather(*(poll(api, gid, limit=10, consumer=f"c{n}") for n in range(3)))
    leases = [item["lease"] for items in taken for item in items]
    assert len(leases) == len(set(leases)) == 30
    queue = ok(await api.get(f"/v1/endpoints/{gid}/queue"))
    assert (queue["available"], queue["leased"]) == (0, 30)
    assert {each["name"]: each["inFlight"] for each in queue["consumers"]} == {"c0": 10, "c1": 10, "c2": 10}


async def test_a_poll_waits_for_a_message(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api)
    waiting = asyncio.create_task(poll(api, gid, waitSeconds=20))
    await asyncio.sleep(0.2)
    await api.publish({"n": 1})
    (item,) = await asyncio.wait_for(waiting, 15)
    assert item["payload"] == {"n": 1}


async def test_a_nack_follows_the_schedule_and_can_ask_for_more_time(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api, policy={"delaysSeconds": [0, 3600]})
    await api.publish({"n": 1})
    (first,) = await poll(api, gid)
    (result,) = await acks(api, gid, nacks=[{"lease": first["lease"], "reason": "busy"}])
    assert result["status"] == "nacked"
    assert await next_attempt(api, first) is None
    (second,) = await poll(api, gid)
    assert second["lease"].endswith(".1.2")
    (stale,) = await acks(api, gid, nacks=[{"lease": first["lease"]}])
    assert stale["status"] == "lost"
    await acks(api, gid, nacks=[{"lease": second["lease"]}])
    assert await poll(api, gid) == []
    shown = ok(await api.get(f"/v1/deliveries/{first['deliveryGid']}"))
    assert shown["status"] == "available"
    assert shown["nextAttemptAt"] == shown["attempts"][-1]["nextAttemptAt"] == await next_attempt(api, first)
    assert [(each["number"], each["error"], each["errorDetail"]) for each in shown["attempts"]] == [
        (1, "nacked", "busy"),
        (2, "nacked", None),
    ]
    assert (await api.rows("SELECT guarded_at FROM pull_queue"))[0].guarded_at is not None
    assert (await api.post(f"/v1/deliveries/{first['deliveryGid']}/attempt-now")).status_code == 202
    assert await next_attempt(api, first) is None


async def next_attempt(api: Api, item: JSON) -> str | None:
    """The time of the next attempt, from the list of deliveries."""
    (listed,) = ok(await api.get("/v1/deliveries", messageGid=item["messageGid"]))["data"]
    found: str | None = listed["nextAttemptAt"]
    return found


async def test_an_expired_lease_is_an_attempt_and_the_next_consumer_gets_the_message(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api)
    await api.publish({"n": 1})
    (first,) = await poll(api, gid, consumer="dies")
    await end_lease(api, gid)
    (second,) = await poll(api, gid, consumer="lives")
    assert second["metadata"]["attempt"] == 2
    (late,) = await acks(api, gid, acks=[{"lease": first["lease"]}])  # the work was done after all
    assert (late["status"], late["duplicate"]) == ("acked", False)
    (duplicate,) = await acks(api, gid, acks=[{"lease": second["lease"]}])
    assert (duplicate["status"], duplicate["duplicate"]) == ("acked", True)
    attempts = ok(await api.get(f"/v1/deliveries/{first['deliveryGid']}"))["attempts"]
    assert [(each["number"], each["verdict"], each["error"]) for each in attempts] == [
        (1, "retry", "lease_expired"),
        (2, "delivered", None),
    ]


async def test_a_lease_that_was_not_handed_out_yet_is_unknown(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api)
    await api.publish({"n": 1})
    (item,) = await poll(api, gid, leaseSeconds=5)

    async def statuses(lease: str) -> set[str]:
        lines = {"acks": {"lease": lease}, "nacks": {"lease": lease}, "extends": {"lease": lease, "seconds": 60}}
        return {(await acks(api, gid, **{kind: [line]}))[0]["status"] for kind, line in lines.items()}

    delivery = item["deliveryGid"]
    assert await statuses(f"{delivery}.1.2") == await statuses(f"{delivery}.2.1") == {"unknown"}
    await end_lease(api, gid)
    (again,) = await poll(api, gid)
    assert again["lease"] == f"{delivery}.1.2"
    assert await statuses(f"{delivery}.1.3") == {"unknown"}
    (acked,) = await acks(api, gid, acks=[{"lease": again["lease"]}])
    assert acked["status"] == "acked"


async def test_an_extension_counts_only_for_the_current_lease(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api)
    await api.publish({"n": 1})
    (first,) = await poll(api, gid, leaseSeconds=5)
    (extended,) = await acks(api, gid, extends=[{"lease": first["lease"], "seconds": 300}])
    assert extended["status"] == "extended"
    assert extended["leaseUntil"] > first["leaseUntil"]
    await end_lease(api, gid)
    await poll(api, gid)
    (lost,) = await acks(api, gid, extends=[{"lease": first["lease"], "seconds": 300}])
    assert lost["status"] == "lost"


async def test_one_bad_line_fails_none_of_the_others(api: Api) -> None:
    await api.channel()
    mine, other = await pull_endpoint(api), await pull_endpoint(api)
    await api.publish({"n": 1})
    (item,) = await poll(api, mine)
    (foreign,) = await poll(api, other)
    results = await acks(
        api,
        mine,
        acks=[{"lease": "nonsense"}, {"lease": foreign["lease"]}, {"lease": item["lease"]}, {"lease": item["lease"]}],
        nacks=[{"lease": item["lease"]}],
    )
    assert [(each["status"], each["duplicate"]) for each in results] == [
        ("unknown", False),
        ("unknown", False),
        ("acked", False),
        ("acked", True),
        ("lost", False),
    ]


@pytest.mark.parametrize(
    ("of_channel", "own", "threshold"),
    [(None, None, 5), (3, None, 3), (8, 2, 2), (None, 8, 8)],
    ids=["default", "channel", "endpoint", "higher"],
)
async def test_failures_in_a_row_hold_the_queue_although_the_circuits_workflow_is_away(
    api: Api, of_channel: int | None, own: int | None, threshold: int
) -> None:
    """Temporal opens the circuit; until then, a process that sees only failures stops handing out deliveries."""
    await api.channel(circuit={"failureThreshold": of_channel} if of_channel else None)
    gid = await pull_endpoint(api, circuit={"failureThreshold": own} if own else None)
    for n in range(10):
        await api.publish({"n": n})
    burnt = 0
    for _ in range(10):
        response = ok(await api.get(f"/v1/endpoints/{gid}/poll", limit=1))
        for item in response["data"]:
            burnt += 1
            await acks(api, gid, nacks=[{"lease": item["lease"]}])
    assert burnt == threshold
    assert response == {"data": [], "more": False, "held": "circuit_open"}


async def test_the_number_of_open_leases_is_bounded(api: Api) -> None:
    await api.channel()
    gid = await pull_endpoint(api, options={"maxInFlight": 2})
    for n in range(3):
        await api.publish({"n": n})
    assert len(await poll(api, gid, limit=10)) == 2
    assert ok(await api.get(f"/v1/endpoints/{gid}/poll"))["held"] == "max_in_flight"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "http"}, "url"),
        ({"mode": "poll", "url": "https://example.com/"}, "url"),
        ({"mode": "poll", "rateLimit": 5}, "rateLimit"),
        ({"mode": "stream", "headers": {"x-a": "b"}}, "headers"),
        ({"mode": "poll", "options": {"leaseSeconds": 1}}, "options.leaseSeconds"),
        ({"mode": "fax"}, "mode"),
        ({"url": "https://example.com/", "options": {"leaseSeconds": 60}}, "options.leaseSeconds"),
    ],
)
async def test_settings_that_do_not_apply_to_the_mode_are_refused(api: Api, body: JSON, field: str) -> None:
    problem = assert_problem(await api.post("/v1/endpoints", body), 422)
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_only_endpoints_in_pull_mode_can_be_polled(api: Api) -> None:
    await api.channel()
    webhook = (await api.endpoint())["endpointGid"]
    pulled = await pull_endpoint(api)
    assert_problem(await api.get(f"/v1/endpoints/{webhook}/poll"), 409)
    assert_problem(await api.get("/v1/endpoints/ep_none/poll"), 404)
    reader = await api.key("read", name="reader")
    assert_problem(await reader.get(f"/v1/endpoints/{pulled}/poll"), 403)
    large = {"acks": [{"lease": "x", "result": "y" * 20_000}]}
    problem = assert_problem(await api.post(f"/v1/endpoints/{pulled}/acks", large), 413)
    assert "acks[0].result" in problem["detail"]
