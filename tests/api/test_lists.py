"""Lists: filters, and cursors that reach every row exactly once."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from typing import Any

import pytest

from everhook.contracts import DeliveryStatus
from everhook.ids import Kind, new_gid
from everhook.storage.tables import Delivery
from testing.api import JSON, ON_SHARED, UNKNOWN_SUFFIX, Api, assert_problem, created, ok

LISTS = ["endpoints", "subscriptions", "messages", "deliveries", "dead-letters"]


@pytest.mark.parametrize("name", LISTS)
async def test_an_empty_list_is_one_empty_page(api: Api, name: str) -> None:
    assert ok(await api.get(f"/v1/{name}")) == {"data": [], "nextCursor": None}


@ON_SHARED
@pytest.mark.parametrize(
    "cursor",
    ["", "!!!", "AA", "AAAA", "\x00", "%00", "ü", "x" * 500, "b3JkZXJz=", " b3JkZXJz", "b3JkZXJz!", "-_-_", "JScg"],
)
async def test_a_cursor_that_everhook_did_not_issue_is_refused(shared: Api, cursor: str) -> None:
    for name in LISTS:
        assert_problem(await shared.get(f"/v1/{name}", cursor=cursor), 422, "cursor")


async def test_a_cursor_with_a_nul_is_refused_before_the_database_sees_it(api: Api) -> None:
    cursor = urlsafe_b64encode(b"msg_\x00").decode().rstrip("=")

    assert_problem(await api.get("/v1/messages", cursor=cursor), 422, "cursor")


@ON_SHARED
@pytest.mark.parametrize("name", LISTS)
async def test_a_page_has_one_to_five_hundred_items(shared: Api, name: str) -> None:
    for limit in ("0", "-1", "501", "many", "1.5", ""):
        assert_problem(await shared.get(f"/v1/{name}", limit=limit), 422, "limit")


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 500])
async def test_a_walk_sees_every_row_once_for_any_page_size(api: Api, limit: int) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    published = [await api.publish(n) for n in range(7)]

    messages = await api.walk("/v1/messages", limit=limit)
    deliveries = await api.walk("/v1/deliveries", limit=limit)

    assert [m["messageGid"] for m in messages] == [p["messageGid"] for p in published][::-1]
    assert sorted(d["messageGid"] for d in deliveries) == sorted(p["messageGid"] for p in published)
    assert len({d["deliveryGid"] for d in deliveries}) == 7


async def test_a_walk_is_not_affected_by_messages_published_meanwhile(api: Api) -> None:
    await api.channel()
    before = [(await api.publish(n))["messageGid"] for n in range(4)]
    page = ok(await api.get("/v1/messages", limit=2))
    await api.publish("late")

    rest = ok(await api.get("/v1/messages", limit=50, cursor=page["nextCursor"]))

    assert [m["messageGid"] for m in page["data"] + rest["data"]] == before[::-1]
    assert rest["nextCursor"] is None


async def test_messages_are_filtered(api: Api) -> None:
    for name in ("a", "b"):
        await api.channel(name)
    await api.endpoint(tenant="acme")
    one = await api.publish(1, "a", type="x", idempotencyKey="k")
    middle = datetime.now(UTC).isoformat()
    two = await api.publish(2, "b", type="x", tenant="acme")
    three = await api.publish(3, "b", type="y")

    async def found(**params: Any) -> set[str]:
        return {message["messageGid"] for message in await api.walk("/v1/messages", **params)}

    gids = [message["messageGid"] for message in (one, two, three)]
    assert await found() == set(gids)
    assert await found(channel="b") == {gids[1], gids[2]}
    assert await found(type="x") == {gids[0], gids[1]}
    assert await found(channel="b", type="x") == {gids[1]}
    assert await found(tenant="acme") == {gids[1]}
    assert await found(tenant="nobody") == set()
    assert await found(since=middle) == {gids[1], gids[2]}
    assert await found(until=middle) == {gids[0]}
    assert await found(since=middle, until=middle) == set()


async def test_a_message_is_shown_with_payload_and_deliveries(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    message = await api.publish({"a": [1]}, idempotencyKey="k")

    shown = ok(await api.get(f"/v1/messages/{message['messageGid']}"))

    assert shown["payload"] == {"a": [1]}
    assert shown["deliveries"] == message["deliveries"]
    assert (shown["idempotencyKey"], shown["tenant"]) == ("k", None)
    (listed,) = await api.walk("/v1/messages")
    assert "payload" not in listed
    assert listed == {key: value for key, value in shown.items() if key in listed}
    assert shown["deliveryCounts"] == {"accepted": 1} and not shown["moreDeliveries"]


async def test_a_message_with_very_many_deliveries_shows_some_and_counts_all(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    message = await api.publish()
    copies = 130
    async with api.database.writing() as session:
        first = await session.get_one(Delivery, message["deliveries"][0]["deliveryGid"])
        fields = first.model_dump() | {"status": DeliveryStatus.PARKED}
        session.add_all([Delivery(**fields | {"gid": new_gid(Kind.DELIVERY)}) for _ in range(copies)])

    shown = ok(await api.get(f"/v1/messages/{message['messageGid']}"))

    assert shown["deliveryCounts"] == {"accepted": 1, "parked": copies} and shown["moreDeliveries"]
    listed = [
        each["deliveryGid"] for each in await api.walk("/v1/deliveries", limit=50, messageGid=shown["messageGid"])
    ]
    assert len(listed) == copies + 1
    assert [each["deliveryGid"] for each in shown["deliveries"]] == listed[:100]


async def test_deliveries_are_filtered(api: Api) -> None:
    for name in ("a", "b"):
        await api.channel(name)
    for tenant in ("acme", "other"):
        await api.endpoint(channel="a", tenant=tenant)
    endpoint = await api.endpoint(channel="b", tenant="acme")
    one = await api.publish(1, "a", type="x")
    middle = datetime.now(UTC).isoformat()
    two = await api.publish(2, "b", type="y")
    dead = two["deliveries"][0]["deliveryGid"]
    await kill(api, dead)

    async def found(**params: Any) -> set[str]:
        return {delivery["deliveryGid"] for delivery in await api.walk("/v1/deliveries", **params, limit=1)}

    living = {delivery["deliveryGid"] for delivery in one["deliveries"]}
    assert await found() == living | {dead}
    assert await found(channel="a") == await found(type="x") == await found(messageGid=one["messageGid"]) == living
    assert await found(endpointGid=endpoint["endpointGid"]) == {dead}
    assert await found(status="dead_lettered") == {dead}
    assert await found(status="accepted") == await found(until=middle) == living
    assert await found(since=middle) == {dead}
    assert len(await found(tenant="acme")) == 2
    assert await found(tenant="nobody") == await found(endpointGid=f"ep_{UNKNOWN_SUFFIX}") == set()


async def test_a_delivery_is_shown_before_its_first_attempt(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint(channel="orders")
    message = await api.publish()

    delivery = ok(await api.get(f"/v1/deliveries/{message['deliveries'][0]['deliveryGid']}"))

    assert (delivery["status"], delivery["round"], delivery["attemptsMade"]) == ("accepted", 1, 0)
    assert (delivery["messageGid"], delivery["endpointGid"]) == (message["messageGid"], endpoint["endpointGid"])
    assert (delivery["attempts"], delivery["nextAttemptAt"], delivery["completedAt"]) == ([], None, None)


async def test_dead_letters_are_filtered(api: Api) -> None:
    """Rows are set to dead letters by hand here: dead-lettering itself is tested where Temporal runs."""
    for name in ("a", "b"):
        await api.channel(name)
        await api.endpoint(channel=name, tenant=f"of-{name}")
    messages = [await api.publish(name, name, type=f"type.{name}") for name in ("a", "b", "b")]
    one, two, living = (message["deliveries"][0] for message in messages)
    await kill(api, one["deliveryGid"], reason="rejected", status=422, at="2026-01-01 12:00:00.000000")
    await kill(api, two["deliveryGid"], reason="exhausted", status=503, at="2026-01-02 12:00:00.000000")

    async def found(**params: Any) -> list[str]:
        return [letter["deliveryGid"] for letter in await api.walk("/v1/dead-letters", **params, limit=1)]

    assert await found() == [two["deliveryGid"], one["deliveryGid"]]
    for params in [
        {"tenant": "of-a"},
        {"channel": "a"},
        {"endpointGid": one["endpointGid"]},
        {"type": "type.a"},
        {"deadLetterReason": "rejected"},
        {"lastStatusCode": 422},
        {"until": "2026-01-02T12:00:00Z"},
        {"since": "2026-01-01T12:00:00Z", "until": "2026-01-01T12:00:01Z"},
        {"tenant": "of-a", "deadLetterReason": "rejected", "lastStatusCode": 422},
    ]:
        assert await found(**params) == [one["deliveryGid"]], params
    assert await found(since="2026-01-01T13:00:00+01:00") == [two["deliveryGid"], one["deliveryGid"]]
    assert await found(tenant="of-a", deadLetterReason="exhausted") == []
    assert_problem(await api.get(f"/v1/dead-letters/{living['deliveryGid']}"), 404)


@ON_SHARED
@pytest.mark.parametrize(
    ("path", "params", "named"),
    [
        ("messages", {"since": "yesterday"}, "since"),
        ("messages", {"until": "2026-01-31T12:00:00"}, "until"),
        ("messages", {"since": "0001-01-01T00:00:00+14:00"}, "since"),
        ("messages", {"until": "9999-12-31T23:59:59-14:00"}, "until"),
        ("messages", {"channel": "a b"}, "channel"),
        ("messages", {"type": "a\n"}, "type"),
        ("messages", {"tenant": "\x00"}, "tenant"),
        ("deliveries", {"status": "lost"}, "status"),
        ("deliveries", {"endpointGid": "\x00"}, "endpointGid"),
        ("deliveries", {"messageGid": "\x00"}, "messageGid"),
        ("subscriptions", {"endpointGid": "\x00"}, "endpointGid"),
        ("dead-letters", {"deadLetterReason": "bad luck"}, "deadLetterReason"),
        ("dead-letters", {"lastStatusCode": 99}, "lastStatusCode"),
        ("dead-letters", {"lastStatusCode": 600}, "lastStatusCode"),
        ("dead-letters", {"lastStatusCode": "x"}, "lastStatusCode"),
        ("dead-letters", {"endpointGid": "ep_x"}, "endpointGid"),
        ("dead-letters", {"tenant": "nobody"}, "tenant"),
        ("dead-letters", {"since": "0001-01-01T00:00:00+14:00"}, "since"),
    ],
)
async def test_a_bad_filter_is_named(shared: Api, path: str, params: JSON, named: str) -> None:
    assert_problem(await shared.get(f"/v1/{path}", **params), 422, named)


@ON_SHARED
@pytest.mark.parametrize("path", ["messages", "deliveries", "dead-letters", "subscriptions", "batches", "endpoints"])
async def test_an_unknown_resource_is_not_found(shared: Api, path: str) -> None:
    for gid in ("x", f"msg_{UNKNOWN_SUFFIX}", f"dlv_{UNKNOWN_SUFFIX}", "%20", "ü"):
        assert_problem(await shared.get(f"/v1/{path}/{gid}"), 404)


@ON_SHARED
@pytest.mark.parametrize("path", ["messages", "deliveries", "dead-letters", "subscriptions", "batches", "endpoints"])
async def test_a_nul_in_a_gid_never_reaches_the_database(shared: Api, path: str) -> None:
    assert_problem(await shared.get(f"/v1/{path}/a%00"), 422, "gid")


@pytest.mark.parametrize("call", ["/live", "/attempt-now"])
async def test_commands_to_unknown_resources_are_not_found(api: Api, call: str) -> None:
    path = f"/v1/deliveries/dlv_{UNKNOWN_SUFFIX}{call}"

    assert_problem(await (api.get(path) if call == "/live" else api.post(path)), 404)


async def test_only_dead_letters_are_replayed_and_discarded(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]

    for decision in ("replay", "discard"):
        problem = assert_problem(await api.post(f"/v1/dead-letters/{gid}/{decision}"), 409)
        assert problem["type"] == "/problems/not-a-dead-letter"
    assert_problem(await api.post(f"/v1/dead-letters/dlv_{UNKNOWN_SUFFIX}/replay"), 404)
    assert_problem(await api.post(f"/v1/dead-letters/dlv_{UNKNOWN_SUFFIX}/discard"), 404)


@pytest.mark.parametrize("status", ["delivered", "discarded", "dead_lettered"])
async def test_a_finished_delivery_has_no_due_attempt(api: Api, status: str) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await api.change_rows("UPDATE delivery SET status = :status", status=status)

    problem = assert_problem(await api.post(f"/v1/deliveries/{gid}/attempt-now"), 409)
    assert problem["type"] == "/problems/no-attempt-due"


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"reson": "rejected"}, "reson"),
        ({"deadLetterReason": "bad luck"}, "deadLetterReason"),
        ({"endpointGid": 'ep_x" OR "a" = "a'}, "endpointGid"),
        ({"channel": 'a" OR "a" = "a'}, "channel"),
        ({"type": 'a" OR "a" = "a'}, "type"),
        ({"tenant": 'a" OR "a" = "a'}, "tenant"),
        ({"tenant": "nobody"}, "tenant"),
        ({"channel": ["orders", "nope"]}, "channel"),
        ({"endpointGid": f"ep_{UNKNOWN_SUFFIX}"}, "endpointGid"),
        ({"lastStatusCode": 99}, "lastStatusCode"),
        ({"lastStatusCode": [503, 99]}, "lastStatusCode[1]"),
        ({"deadLetterReason": ["rejected", "bad luck"]}, "deadLetterReason[1]"),
        ({"type": ["x"] * 21}, "type"),
        ({"since": "2026-01-31T12:00:00"}, "since"),
        ({"reason": "x" * 1001}, "reason"),
        ({"dryRun": "perhaps"}, "dryRun"),
    ],
)
async def test_a_bad_selection_for_many_is_named(shared: Api, body: JSON, named: str) -> None:
    for operation in ("replay", "purge"):
        assert_problem(await shared.post(f"/v1/dead-letters/{operation}", body), 422, named)


@pytest.mark.parametrize("operation", ["replay", "purge"])
async def test_a_bulk_operation_that_matches_nothing_starts_no_batch(api: Api, operation: str) -> None:
    body = ok(await api.post(f"/v1/dead-letters/{operation}", {}))

    assert body == {"matched": 0, "skipped": 0, "batchGid": None}


async def kill(
    api: Api, gid: str, reason: str = "rejected", status: int = 422, at: str = "2026-01-01 12:00:00.000000"
) -> None:
    await api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', reason = :reason, last_status_code = :status, "
        "dead_lettered_at = :at WHERE gid = :gid",
        gid=gid,
        reason=reason,
        status=status,
        at=at,
    )


@pytest.mark.parametrize("status", ["delivered", "discarded"])
async def test_a_finished_delivery_waits_for_nothing_and_its_workflow_is_not_queried(api: Api, status: str) -> None:
    """Temporal is stopped here."""
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await api.change_rows("UPDATE delivery SET status = :status, attempts = 2", status=status)

    live = ok(await api.get(f"/v1/deliveries/{gid}/live"))

    assert (live["status"], live["waitingFor"], live["nextAttemptAt"]) == (status, "nothing", None)
    assert (live["round"], live["attempt"]) == (1, 2)


async def test_a_dead_letter_of_a_deleted_endpoint_is_not_replayed(api: Api) -> None:
    await api.channel()
    endpoint = (await api.endpoint(channel="orders"))["endpointGid"]
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await kill(api, gid)
    assert (await api.delete(f"/v1/endpoints/{endpoint}")).status_code == 204

    problem = assert_problem(await api.post(f"/v1/dead-letters/{gid}/replay"), 409)
    assert endpoint in problem["detail"] and problem["type"] == "/problems/endpoint-deleted"
    assert_problem(await api.post("/v1/dead-letters/replay", {"endpointGid": endpoint}), 409)
    assert ok(await api.post("/v1/dead-letters/purge", {"endpointGid": endpoint, "dryRun": True}))["matched"] == 1


async def test_dead_letters_of_a_deleted_channel_are_found_by_its_name(api: Api) -> None:
    await api.channel()
    gid = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["subscriptionGid"]
    await kill(api, (await api.publish())["deliveries"][0]["deliveryGid"])
    assert (await api.delete(f"/v1/subscriptions/{gid}")).status_code == 204
    assert (await api.delete("/v1/channels/orders")).status_code == 204

    assert ok(await api.post("/v1/dead-letters/purge", {"channel": "orders", "dryRun": True}))["matched"] == 1


async def test_a_bulk_replay_leaves_the_dead_letters_of_deleted_endpoints_alone(api: Api) -> None:
    await api.channel()
    gone, there = [(await api.endpoint(channel="orders"))["endpointGid"] for _ in range(2)]
    for delivery in (await api.publish())["deliveries"]:
        await kill(api, delivery["deliveryGid"])
    assert (await api.delete(f"/v1/endpoints/{gone}")).status_code == 204

    async def counted(operation: str, **selection: Any) -> tuple[int, int]:
        body = ok(await api.post(f"/v1/dead-letters/{operation}", {**selection, "dryRun": True}))
        return body["matched"], body["skipped"]

    assert await counted("replay") == (1, 1)
    assert await counted("replay", endpointGid=[gone, there]) == (1, 1)
    assert await counted("replay", endpointGid=there) == (1, 0)
    assert await counted("purge") == (2, 0)
    assert_problem(await api.post("/v1/dead-letters/replay", {"endpointGid": [gone]}), 409)


async def test_several_values_of_a_filter_mean_any_of_them(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.channel(name)
        await api.endpoint(channel=name, tenant=f"of-{name}")
    deliveries = {}
    for name, reason, status in (("a", "rejected", 422), ("b", "exhausted", 503), ("c", "circuit_open", 500)):
        deliveries[name] = (await api.publish(name, name, type=f"type.{name}"))["deliveries"][0]
        await kill(api, deliveries[name]["deliveryGid"], reason, status)
    of = {name: delivery["endpointGid"] for name, delivery in deliveries.items()}

    async def found(path: str, **params: Any) -> set[str]:
        rows = await api.walk(f"/v1/{path}", limit=1, **params)
        names = {gid: name for name, gid in of.items()}
        return {names[row["endpointGid"]] if row["endpointGid"] is not None else row["channel"] for row in rows}

    for path, params in [
        ("deliveries", {"status": ["dead_lettered", "parked"], "channel": ["a", "b"]}),
        ("deliveries", {"endpointGid": [of["a"], of["b"]]}),
        ("deliveries", {"type": ["type.a", "type.b"], "tenant": ["of-a", "of-b", "of-c"]}),
        ("deliveries", {"tenant": ["of-a", "of-b", "nobody"]}),
        ("dead-letters", {"deadLetterReason": ["rejected", "exhausted"]}),
        ("dead-letters", {"lastStatusCode": [422, 503]}),
        ("dead-letters", {"endpointGid": [of["a"], of["b"]], "tenant": ["of-a", "of-b"]}),
        ("dead-letters", {"channel": ["a", "b"], "type": ["type.a", "type.b"]}),
        ("messages", {"channel": ["a", "b"]}),
        ("messages", {"type": ["type.a", "type.b"]}),
        ("subscriptions", {"channel": ["a", "b"]}),
        ("subscriptions", {"endpointGid": [of["a"], of["b"]]}),
        ("endpoints", {"tenant": ["of-a", "of-b"]}),
    ]:
        assert await found(path, **params) == {"a", "b"}, (path, params)
        if path == "dead-letters":
            body = ok(await api.post("/v1/dead-letters/replay", {**params, "dryRun": True}))
            assert body["matched"] == 2, params
    assert await found("deliveries", status=["parked", "retrying"]) == set()
    actions = {entry["action"] for entry in await api.walk("/v1/audit", action=["channel.created", "endpoint.created"])}
    assert actions == {"channel.created", "endpoint.created"}


async def test_a_cursor_belongs_to_its_list_and_its_filters(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    for number in range(3):
        await api.publish(number)
    cursor = ok(await api.get("/v1/deliveries", limit=1, status="accepted"))["nextCursor"]

    assert len(ok(await api.get("/v1/deliveries", limit=2, status="accepted", cursor=cursor))["data"]) == 2
    for path, params in [
        ("deliveries", {}),
        ("deliveries", {"status": "parked"}),
        ("deliveries", {"status": "accepted", "channel": "orders"}),
        ("messages", {}),
        ("endpoints", {}),
    ]:
        problem = assert_problem(await api.get(f"/v1/{path}", cursor=cursor, **params), 422, "cursor")
        assert "another list" in problem["detail"]


async def test_a_reason_of_a_newer_version_is_shown_as_it_is(api: Api) -> None:
    """During an upgrade, processes of two versions read the same rows."""
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await api.publish())["deliveries"][0]["deliveryGid"]
    await kill(api, gid, reason="of_a_newer_version")

    (listed,) = await api.walk("/v1/dead-letters")
    shown = ok(await api.get(f"/v1/deliveries/{gid}"))

    assert listed["deadLetterReason"] == shown["deadLetterReason"] == "of_a_newer_version"
    assert_problem(await api.get("/v1/dead-letters", deadLetterReason="of_a_newer_version"), 422, "deadLetterReason")


async def test_rows_that_are_refused_today_are_shown_as_they_are_stored(api: Api) -> None:
    await api.channel()
    stored: dict[str, JSON] = {
        "options": {"leaseSeconds": 1, "handler": {"kind": "fax"}, "new": True},
        "circuit": {"failureThreshold": 0, "new": 1},
        "policy": {"delaysSeconds": [-1]},
        "alerts": {"overMinutes": 0},
        "auth": {"type": "magic", "token": None},
    }
    gid = created(await api.post("/v1/endpoints", {"mode": "poll"}))["endpointGid"]
    changes = ", ".join(f"{name} = :{name}" for name in stored)
    await api.change_rows(f"UPDATE endpoint SET {changes}", **{name: json.dumps(each) for name, each in stored.items()})
    gates = [{"inbox": "", "filter": {"a": {"$new": 1}}, "new": 1}]
    await api.change_rows("UPDATE channel SET gates = :gates, circuit = '{\"x\": 1}'", gates=json.dumps(gates))

    one = ok(await api.get(f"/v1/endpoints/{gid}"))
    assert one["options"] == {"maxInFlight": 1_000, **stored.pop("options")}
    assert one["circuit"]["settings"] == stored.pop("circuit")
    assert stored.items() <= one.items()
    assert ok(await api.get("/v1/endpoints"))["data"] == [one]
    channel = ok(await api.get("/v1/channels/orders"))
    assert (channel["gates"], channel["circuit"]) == (gates, {"x": 1})
    assert channel in ok(await api.get("/v1/channels"))["data"]
