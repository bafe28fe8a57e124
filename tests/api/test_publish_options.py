"""Options of a publish, with Temporal stopped: metadata, one endpoint, one attempt, a time, several channels."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from everhook.contracts import DeliveryStatus
from everhook.lifecycle import store as lifecycle_store
from everhook.observability.metrics import REGISTRY
from testing.api import JSON, Api, accepted, assert_problem, ok


async def publish(api: Api, **body: Any) -> JSON:
    return accepted(await api.try_publish({"payload": {"n": 1}, "type": "order.created", **body}))


# Metadata


async def test_metadata_is_shown_and_filters_read_it(api: Api) -> None:
    await api.channel()
    europe = await api.endpoint()
    others = await api.endpoint()
    for endpoint, conditions in (
        (europe, {"$metadata.region": "eu", "$metadata.vip": {"$exists": False}}),
        (others, {"$not": {"$metadata.region": {"$prefix": "e"}}}),
    ):
        body = {"endpointGid": endpoint["endpointGid"], "channel": "orders", "filter": conditions}
        assert (await api.post("/v1/subscriptions", body)).status_code == 201

    message = await publish(api, metadata={"region": "eu", "note": "Grüße"})
    assert [each["endpointGid"] for each in message["deliveries"]] == [europe["endpointGid"]]
    shown = ok(await api.get(f"/v1/messages/{message['messageGid']}"))
    assert shown["metadata"] == {"region": "eu", "note": "Grüße"}
    assert [each["metadata"] for each in ok(await api.get("/v1/messages"))["data"]] == [shown["metadata"]]
    elsewhere = await publish(api)
    assert [each["endpointGid"] for each in elsewhere["deliveries"]] == [others["endpointGid"]]
    assert ok(await api.get(f"/v1/messages/{elsewhere['messageGid']}"))["metadata"] == {}

    assert (await api.delete(f"/v1/messages/{message['messageGid']}/payload")).status_code == 204
    assert ok(await api.get(f"/v1/messages/{message['messageGid']}"))["metadata"] == {}


async def test_consumers_get_metadata(api: Api) -> None:
    await api.channel()
    body = {"mode": "poll", "channel": "orders"}
    gid = (await api.post("/v1/endpoints", body)).json()["endpointGid"]
    await publish(api, metadata={"region": "eu"})
    await publish(api)
    items = ok(await api.get(f"/v1/endpoints/{gid}/poll"))["data"]
    assert [item["metadata"].get("attributes") for item in items] == [{"region": "eu"}, None]


@pytest.mark.parametrize(
    ("metadata", "field", "says"),
    [
        ({f"k{n}": "" for n in range(51)}, "metadata", "at most 50"),
        ({"a": "x" * 4_096}, "metadata", "4096"),
        ({"a b": "x"}, "metadata", "is not a key"),
        ({"": "x"}, "metadata", "is not a key"),
        ({"x" * 65: "x"}, "metadata", "is not a key"),
        ({"Region": "x", "region": "x"}, "metadata", "differ in case alone"),
        ({"a": "x\r\ny"}, "metadata.a", "control"),
        ({"a": "x", "b": 1}, "metadata.b", "string"),
        ({"a": None}, "metadata.a", "string"),
    ],
)
async def test_metadata_that_cannot_be_sent_is_refused(api: Api, metadata: JSON, field: str, says: str) -> None:
    await api.channel()
    problem = assert_problem(await api.try_publish({"payload": 1, "type": "a", "metadata": metadata}), 422, field)
    assert says in problem["errors"][0]["message"]
    assert await api.count("message") == 0


# One endpoint


async def test_a_message_is_delivered_only_to_the_endpoint_that_it_names(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    alone = await api.endpoint()
    message = await publish(api, endpointGid=alone["endpointGid"])
    assert [each["endpointGid"] for each in message["deliveries"]] == [alone["endpointGid"]]
    shown = ok(await api.get(f"/v1/messages/{message['messageGid']}"))
    assert (shown["endpointGid"], shown["unrouted"]) == (alone["endpointGid"], False)
    batch = accepted(
        await api.try_batch(
            [{"payload": 1, "type": "a", "endpointGid": alone["endpointGid"]}, {"payload": 2, "type": "a"}]
        )
    )
    assert [len(each["deliveries"]) for each in batch["data"]] == [1, 1]
    assert batch["data"][0]["deliveries"][0]["endpointGid"] == alone["endpointGid"]
    assert batch["data"][1]["deliveries"][0]["endpointGid"] != alone["endpointGid"]


async def test_an_unknown_endpoint_or_one_of_another_tenant_is_refused(api: Api) -> None:
    await api.channel()
    theirs = await api.endpoint(tenant="theirs")
    await api.endpoint(tenant="ours", channel="orders")
    gone = await api.endpoint()
    assert (await api.delete(f"/v1/endpoints/{gone['endpointGid']}")).status_code == 204
    for gid in ("ep_nothing", gone["endpointGid"], theirs["endpointGid"]):
        body = {"payload": 1, "type": "a", "endpointGid": gid, "tenant": "ours", "idempotencyKey": "k"}
        assert_problem(await api.try_publish(body), 422, "endpointGid")
        assert_problem(await api.try_batch([body, {"payload": 2, "type": "a"}]), 422, "messages[0].endpointGid")
    assert await api.count("message") == await api.count("message_key") == 0
    del body["tenant"]
    assert len(accepted(await api.try_publish(body))["deliveries"]) == 1  # for all tenants


async def test_the_gates_of_a_channel_hold_for_a_message_to_one_endpoint(api: Api) -> None:
    inbox = (await api.post("/v1/endpoints", {"mode": "inbox", "options": {"name": "Managers"}})).json()
    await api.channel(gates=[{"inbox": inbox["endpointGid"]}])
    alone = await api.endpoint()
    message = await publish(api, endpointGid=alone["endpointGid"])
    statuses = {each["endpointGid"]: each["status"] for each in message["deliveries"]}
    assert statuses == {alone["endpointGid"]: "gated", inbox["endpointGid"]: "awaiting_decision"}


# Unrouted messages


async def test_messages_that_no_endpoint_took_can_be_listed(api: Api) -> None:
    await api.channel()
    lost = await publish(api)
    await api.endpoint(channel="orders")
    await publish(api)
    found = ok(await api.get("/v1/messages", unrouted="true"))["data"]
    assert [(each["messageGid"], each["unrouted"]) for each in found] == [(lost["messageGid"], True)]
    accepted(await api.post(f"/v1/messages/{lost['messageGid']}/redeliver"))
    assert ok(await api.get("/v1/messages", unrouted="true"))["data"] == []
    assert len(ok(await api.get("/v1/messages"))["data"]) == 2


# Several channels in one transaction


def transaction(*channels: str, **more: Any) -> JSON:
    return {"messages": [{"channel": name, "payload": {"n": 1}, "type": "a", **more} for name in channels]}


async def test_messages_on_several_channels_are_accepted_together(api: Api) -> None:
    for name in ("orders", "invoices"):
        await api.channel(name)
        await api.endpoint(channel=name)
    body = transaction("orders", "invoices", "orders")
    data = accepted(await api.post("/v1/messages/transactional", body))["data"]
    assert [each["channel"] for each in data] == ["orders", "invoices", "orders"]
    assert [len(each["deliveries"]) for each in data] == [1, 1, 1]


async def test_one_message_that_cannot_be_accepted_refuses_all(api: Api) -> None:
    await api.channel("orders")
    assert_problem(
        await api.post("/v1/messages/transactional", transaction("orders", "nowhere")), 422, "messages[1].channel"
    )
    problem = assert_problem(
        await api.post("/v1/messages/transactional", transaction("orders", "everhook.events")), 403
    )
    assert "messages[1].channel" in problem["detail"]
    await publish(api, idempotencyKey="used")
    body = transaction("orders", "orders")
    body["messages"][1]["idempotencyKey"] = "used"
    problem = assert_problem(await api.post("/v1/messages/transactional", body), 409)
    assert problem["detail"].startswith("messages[1].idempotencyKey: ")
    assert_problem(await api.post("/v1/messages/transactional", {"messages": []}), 422, "messages")
    assert_problem(await api.post("/v1/messages/transactional", transaction(*["orders"] * 101)), 422, "messages")
    assert await api.count("message") == 1


async def test_a_transaction_that_is_sent_again_publishes_nothing_twice(api: Api) -> None:
    await api.channel("orders")
    body = transaction("orders")
    body["messages"] += transaction("orders")["messages"]
    for index, message in enumerate(body["messages"]):
        message["idempotencyKey"] = f"k{index}"
    first = accepted(await api.post("/v1/messages/transactional", body))["data"]
    again = accepted(await api.post("/v1/messages/transactional", body))["data"]
    assert [each["duplicate"] for each in (*first, *again)] == [False, False, True, True]
    assert [each["messageGid"] for each in first] == [each["messageGid"] for each in again]


# Later


async def test_a_scheduled_message_has_no_deliveries_until_its_time(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    message = await publish(api, deliverAt=at, idempotencyKey="k")
    assert message["deliveries"] == []
    assert datetime.fromisoformat(message["deliverAt"]) - datetime.fromisoformat(at) < timedelta(milliseconds=1)
    gid = message["messageGid"]
    shown = ok(await api.get(f"/v1/messages/{gid}"))
    assert (shown["unrouted"], shown["cancelledAt"], shown["deliveries"]) == (False, None, [])
    assert ok(await api.get(f"/v1/messages/{gid}/wait", timeoutSeconds=0))["state"] == "pending"
    again = await publish(api, deliverAt=at, idempotencyKey="k")
    assert (again["messageGid"], again["duplicate"], again["deliverAt"]) == (gid, True, message["deliverAt"])
    assert_problem(await api.try_publish({"payload": {"n": 1}, "type": "order.created", "idempotencyKey": "k"}), 409)
    problem = assert_problem(await api.post(f"/v1/messages/{gid}/redeliver"), 409)
    assert problem["type"] == "/problems/not-released"


async def test_the_schedule_delivers_a_message_once_to_those_that_match_then(api: Api) -> None:
    await api.channel()
    before = await api.endpoint(channel="orders")
    message = await publish(api, delaySeconds=3600, retry=False, metadata={"region": "eu"})
    gid = message["messageGid"]
    assert (await api.delete(f"/v1/endpoints/{before['endpointGid']}")).status_code == 204
    after = await api.endpoint(channel="orders")
    schedules = api.services.messages.schedules
    assert await schedules.deliver_overdue(timedelta(), 10) == (0, 0)
    assert [await schedules.deliver(gid), await schedules.deliver(gid)] == [True, False]
    (delivery,) = ok(await api.get(f"/v1/messages/{gid}"))["deliveries"]
    assert (delivery["endpointGid"], delivery["status"]) == (after["endpointGid"], "accepted")
    ((accepted_at, of_message, single),) = await api.rows(
        "SELECT delivery.accepted_at, message.accepted_at, delivery.single_attempt FROM delivery "
        "JOIN message ON message.gid = message_gid"
    )
    assert accepted_at == of_message and single
    assert_problem(await api.post(f"/v1/messages/{gid}/cancel"), 409)


async def test_a_message_whose_time_comes_while_it_is_counted_is_not_settled(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a wait, or a reminder, would end before the message was delivered."""
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await publish(api, delaySeconds=3600))["messageGid"]
    schedule_of = lifecycle_store._schedule

    async def delivered_before(session: AsyncSession, message_gid: str) -> tuple[bool, datetime | None]:
        await api.services.messages.schedules.deliver(message_gid)
        return await schedule_of(session, message_gid)

    monkeypatch.setattr(lifecycle_store, "_schedule", delivered_before)
    async with api.database.reading() as session:
        tally = await lifecycle_store.tally(session, gid)
    assert tally.counts == {DeliveryStatus.ACCEPTED: 1} and not tally.is_settled


async def test_the_reconciler_delivers_overdue_messages(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gids = [(await publish(api, delaySeconds=60))["messageGid"] for _ in range(3)]
    await api.change_rows("UPDATE scheduled_message SET deliver_at = '2026-01-01 00:00:00'")
    assert await api.services.messages.schedules.deliver_overdue(timedelta(minutes=3), 2) == (2, 2)
    assert await api.services.messages.schedules.deliver_overdue(timedelta(minutes=3), 2) == (1, 1)
    for gid in gids:
        assert len(ok(await api.get(f"/v1/messages/{gid}"))["deliveries"]) == 1


async def test_a_scheduled_message_that_fails_holds_up_no_other(api: Api) -> None:
    await api.channel()
    gids = [(await publish(api, delaySeconds=60))["messageGid"] for _ in range(2)]
    await api.change_rows("UPDATE scheduled_message SET deliver_at = accepted_at FROM message WHERE gid = message_gid")
    await api.change_rows("UPDATE message SET payload = 'no JSON' WHERE gid = :gid", gid=gids[0])  # a fault
    assert await api.services.messages.schedules.deliver_overdue(timedelta(), 10) == (2, 1)
    assert await api.services.messages.schedules.deliver_overdue(timedelta(), 10) == (0, 0)
    assert await api.rows("SELECT message_gid FROM scheduled_message") == [(gids[0],)]


def refusals() -> float:
    return REGISTRY.get_sample_value("everhook_scheduled_refused_total") or 0.0


async def test_a_scheduled_message_whose_endpoint_was_deleted_keeps_waiting(api: Api) -> None:
    await api.channel()
    alone = await api.endpoint()
    message = await publish(api, delaySeconds=60, endpointGid=alone["endpointGid"])
    assert (await api.delete(f"/v1/endpoints/{alone['endpointGid']}")).status_code == 204
    await api.change_rows("UPDATE scheduled_message SET deliver_at = '2026-01-01 00:00:00'")
    before = refusals()
    for examined in (1, 0):
        assert await api.services.messages.schedules.deliver_overdue(timedelta(), 10) == (examined, 0)
        assert refusals() == before + 1
    ((waits_until,),) = await api.rows("SELECT deliver_at FROM scheduled_message")
    assert str(waits_until) > "2026-02"
    shown = ok(await api.post(f"/v1/messages/{message['messageGid']}/cancel"))
    assert shown["cancelledAt"] is not None


async def test_a_cancelled_message_is_never_delivered(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await publish(api, delaySeconds=60))["messageGid"]
    first = ok(await api.post(f"/v1/messages/{gid}/cancel"))
    assert first["cancelledAt"] is not None
    assert ok(await api.post(f"/v1/messages/{gid}/cancel"))["cancelledAt"] == first["cancelledAt"]
    assert not await api.services.messages.schedules.deliver(gid)
    waited = ok(await api.get(f"/v1/messages/{gid}/wait", timeoutSeconds=0))
    assert (waited["state"], waited["outcome"], waited["deliveries"]) == ("settled", "cancelled", [])
    kinds = [each["kind"] for each in ok(await api.get(f"/v1/messages/{gid}/events"))["data"]]
    assert kinds == ["message.accepted", "message.cancelled", "message.settled"]
    assert_problem(await api.post(f"/v1/messages/{gid}/redeliver"), 409)
    actions = [each["action"] for each in ok(await api.get("/v1/audit"))["data"]]
    assert actions.count("message.cancelled") == 1


async def test_a_cancelled_message_keeps_its_idempotency_key(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    body = {"delaySeconds": 60, "idempotencyKey": "k"}
    gid = (await publish(api, **body))["messageGid"]
    ok(await api.post(f"/v1/messages/{gid}/cancel"))
    again = await publish(api, **body)
    assert (again["messageGid"], again["duplicate"]) == (gid, True)
    assert await api.count("scheduled_message") == 0 and await api.count("delivery") == 0


async def test_erasing_the_payload_of_a_scheduled_message_cancels_it(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    gid = (await publish(api, delaySeconds=60))["messageGid"]
    assert (await api.delete(f"/v1/messages/{gid}/payload")).status_code == 204
    assert not await api.services.messages.schedules.deliver(gid)
    assert ok(await api.get(f"/v1/messages/{gid}"))["cancelledAt"] is not None


async def test_a_publish_key_cancels_messages_that_it_published(api: Api) -> None:
    await api.channel()
    alice, bob = await api.key("publish", name="alice"), await api.key("publish", name="bob")
    gid = (await publish(alice, delaySeconds=60))["messageGid"]
    assert_problem(await bob.post(f"/v1/messages/{gid}/cancel"), 404)
    assert ok(await alice.post(f"/v1/messages/{gid}/cancel"))["cancelledAt"] is not None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"deliverAt": "2126-01-01T00:00:00Z"}, "deliverAt"),
        ({"deliverAt": "2026-01-01T00:00:00"}, "deliverAt"),
        ({"delaySeconds": -1}, "delaySeconds"),
        ({"delaySeconds": 2_592_001}, "delaySeconds"),
        ({"delaySeconds": 1, "deliverAt": "2026-01-01T00:00:00Z"}, "delaySeconds"),
    ],
)
async def test_a_time_that_cannot_be_kept_is_refused(api: Api, options: JSON, field: str) -> None:
    await api.channel()
    assert_problem(await api.try_publish({"payload": 1, "type": "a", **options}), 422, field)
    assert await api.count("message") == 0


async def test_a_time_in_the_past_means_now(api: Api) -> None:
    await api.channel()
    await api.endpoint(channel="orders")
    message = await publish(api, deliverAt="2026-01-01T00:00:00Z")
    assert (len(message["deliveries"]), message["deliverAt"]) == (1, None)


# Matching without sending


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (True, True, None)),
        ({"events": ["*.created"]}, (True, True, None)),
        ({"events": ["order.paid"]}, (False, False, None)),
        ({"filter": {"n": 1, "data.amount": {"$gt": 5, "$lt": 9}}}, (False, True, ("data.amount", {"$lt": 9}, 9))),
        ({"filter": {"missing.0": {"$exists": True}}}, (False, True, ("missing.0", {"$exists": True}, None))),
        ({"filter": {"$all": [{"n": 1}, {"n": 2}]}}, (False, True, ("$all[1].n", {"$eq": 2}, 1))),
        ({"filter": {"$metadata.region": "us"}}, (False, True, ("$metadata.region", {"$eq": "us"}, "eu"))),
        ({"filter": {"$not": {"n": 1}}}, (False, True, ("$not", {"$not": {"n": 1}}, None))),
    ],
)
async def test_a_subscription_can_be_tried(api: Api, body: JSON, expected: tuple[Any, ...]) -> None:
    message = {"type": "order.created", "payload": {"n": 1, "data": {"amount": 9}}, "metadata": {"region": "eu"}}
    found = ok(await api.post("/v1/subscriptions/test", {**body, "message": message}))
    failed = found["failed"]
    shown = (failed["path"], failed["expected"], failed["found"]) if failed is not None else None
    assert (found["matches"], found["typeMatches"], shown) == expected


async def test_a_payload_that_no_publish_takes_is_refused(api: Api) -> None:
    body = {"filter": {"a": 1}, "message": {"type": "a", "payload": {"a": "\ud800"}}}
    assert_problem(await api.post("/v1/subscriptions/test", body), 422, "message.payload")
