"""Sending a message again on both databases, through the API. Temporal is stopped: a replay is committed without it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from activities.recording import RecordingActivities
from everhook.contracts import DiscardInput, OperatorAction
from everhook.delivery.inputs_store import InputDefaults
from everhook.redelivery import service
from everhook.redelivery import store as redelivery
from everhook.redelivery.rounds import open_round
from everhook.storage.engine import Database
from everhook.storage.tables import now
from testing.api import JSON, Api, accepted, assert_problem, created, ok, running_api, settings_for
from tests.api.gating import APPROVE, REJECT, decide, inbox, open_task
from tests.stores import past
from tests.stores.factories import Store
from tests.stores.locks import until_a_lock_is_awaited
from tests.stores.past import keep


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        yield running


async def redeliver(api: Api, message: JSON, **body: Any) -> dict[str, tuple[str, int, str]]:
    """What was done, by endpoint: status, round, result."""
    found = accepted(await api.post(f"/v1/messages/{message['messageGid']}/redeliver", body or None))
    return {each["endpointGid"]: (each["status"], each["round"], each["result"]) for each in found["deliveries"]}


async def settle(api: Api, status: str, gid: str) -> None:
    """Let a delivery to an endpoint have ended, as its attempts would have."""
    await api.change_rows(
        "UPDATE delivery SET status = :status, attempts = 1, due_at = NULL, completed_at = accepted_at, "
        "dispatched_at = accepted_at WHERE endpoint_gid = :gid",
        status=status,
        gid=gid,
    )


@pytest.mark.both_databases
async def test_ended_deliveries_are_sent_again_and_open_ones_are_not(api: Api) -> None:
    await api.channel()
    done, gone, open_ = [(await api.endpoint(channel="orders"))["endpointGid"] for _ in range(3)]
    message = await api.publish({"n": 1})
    await settle(api, "delivered", done)
    await settle(api, "discarded", gone)
    late = (await api.endpoint(channel="orders"))["endpointGid"]

    assert await redeliver(api, message, reason="they lost it") == {
        done: ("accepted", 2, "round_opened"),
        gone: ("accepted", 2, "round_opened"),
        open_: ("accepted", 1, "left_open"),
        late: ("accepted", 1, "created"),
    }
    assert {result for _, _, result in (await redeliver(api, message)).values()} == {"left_open"}
    found = ok(await api.get(f"/v1/messages/{message['messageGid']}/wait", timeoutSeconds=0))
    assert (found["state"], len(found["deliveries"])) == ("pending", 4)
    (first, _) = reversed(await api.walk("/v1/audit", subject=message["messageGid"]))
    assert (first["action"], first["detail"]["opened"], first["detail"]["created"]) == ("message.redelivered", 2, 1)
    rows = await api.rows("SELECT round, began_at FROM delivery_round ORDER BY round")
    assert [row.round for row in rows] == [1, 2, 2]
    # Without a workflow and due soon: if this process dies, the reconciler starts them.
    rows = await api.rows("SELECT dispatched_at, due_at, completed_at FROM delivery WHERE round = 2")
    assert [(row.dispatched_at, row.due_at is not None, row.completed_at) for row in rows] == [(None, True, None)] * 2


async def test_the_events_of_a_message_keep_the_round_that_delivered(api: Api) -> None:
    await api.channel()
    gid = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({"n": 1})
    await settle(api, "delivered", gid)
    delivery = message["deliveries"][0]["deliveryGid"]
    await api.change_rows(
        "INSERT INTO attempt (gid, delivery_gid, endpoint_gid, round, number, verdict, started_at, duration_ms,"
        " request_sha256, url, connection_reused, redialed) SELECT :attempt, gid, endpoint_gid, 1, 1, 'delivered',"
        " accepted_at, 1, '', '', false, false FROM delivery WHERE gid = :gid",
        attempt=delivery.replace("dlv", "att"),
        gid=delivery,
    )
    await redeliver(api, message)
    events = await api.walk(f"/v1/messages/{message['messageGid']}/events")
    assert [event["kind"] for event in events] == [
        "message.accepted",
        "delivery.attempted",
        "delivery.delivered",
        "delivery.replayed",
    ]


@pytest.mark.both_databases
async def test_two_calls_at_once_create_one_delivery_and_open_one_round(api: Api) -> None:
    await api.channel()
    old = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({"n": 1})
    await settle(api, "delivered", old)
    new = (await api.endpoint(channel="orders"))["endpointGid"]
    results = await asyncio.gather(*(redeliver(api, message) for _ in range(4)))
    assert sorted(result[new][2] for result in results) == ["created", "left_open", "left_open", "left_open"]
    assert sorted(result[old][2] for result in results) == ["left_open", "left_open", "left_open", "round_opened"]
    assert await api.count("delivery") == 2


async def test_a_key_makes_a_call_happen_once(api: Api) -> None:
    await api.channel()
    gid = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({"n": 1})
    await settle(api, "delivered", gid)
    path, headers = f"/v1/messages/{message['messageGid']}/redeliver", {"idempotency-key": "once"}
    first = accepted(await api.http.post(path, headers=headers))
    await settle(api, "delivered", gid)
    assert accepted(await api.http.post(path, headers=headers)) == first
    assert (await api.rows("SELECT round FROM delivery"))[0].round == 2


@pytest.mark.both_databases
async def test_a_named_endpoint_gets_it_alone_also_without_a_subscription(api: Api) -> None:
    await api.channel()
    subscribed = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({"n": 1})
    await settle(api, "delivered", subscribed)
    other = (await api.endpoint())["endpointGid"]
    assert await redeliver(api, message, endpointGid=other) == {other: ("accepted", 1, "created")}
    assert await redeliver(api, message, endpointGid=subscribed) == {subscribed: ("accepted", 2, "round_opened")}
    path = f"/v1/messages/{message['messageGid']}/redeliver"
    unknown = other[:-1] + ("0" if other[-1] != "0" else "1")
    assert_problem(await api.post(path, {"endpointGid": unknown}), 422, "endpointGid")
    await api.post("/v1/tenants", {"name": "acme"})
    theirs = (await api.endpoint(tenant="acme"))["endpointGid"]
    own = await api.publish({"n": 1}, tenant="default")
    path = f"/v1/messages/{own['messageGid']}/redeliver"
    assert_problem(await api.post(path, {"endpointGid": theirs}), 422, "endpointGid")


@pytest.mark.both_databases
async def test_pulled_deliveries_are_queued_again_and_inboxes_ask_again(api: Api) -> None:
    await api.channel()
    poll = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    managers = await inbox(api, channel="orders")
    message = await api.publish({"n": 1})
    (item,) = ok(await api.get(f"/v1/endpoints/{poll}/poll"))["data"]
    ok(await api.post(f"/v1/endpoints/{poll}/acks", {"acks": [{"lease": item["lease"]}]}))
    ok(await decide(api, message, APPROVE))
    later = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    assert await redeliver(api, message) == {
        poll: ("available", 2, "round_opened"),
        managers: ("awaiting_decision", 2, "round_opened"),
        later: ("available", 1, "created"),
    }
    task = await open_task(api, message)
    assert (task.get("decision"), task["version"]) == (None, 3)
    for gid, round_ in ((poll, 2), (later, 1)):
        (again,) = ok(await api.get(f"/v1/endpoints/{gid}/poll"))["data"]
        assert (again["messageGid"], again["lease"].split(".")[1]) == (message["messageGid"], str(round_))
        (result,) = ok(await api.post(f"/v1/endpoints/{gid}/acks", {"acks": [{"lease": again["lease"]}]}))["data"]
        assert result["status"] == "acked"
    ok(await decide(api, message, REJECT))
    found = ok(await api.get(f"/v1/messages/{message['messageGid']}/wait", timeoutSeconds=0))
    assert (found["state"], found["outcome"]) == ("settled", "partly")
    assert await api.count("receipt") == 5
    kinds = [event["kind"] for event in await api.walk(f"/v1/messages/{message['messageGid']}/events")]
    assert kinds.count("task.decided") == kinds.count("task.opened") == 2


async def test_a_deleted_endpoint_or_an_erased_payload_is_not_redelivered(api: Api) -> None:
    await api.channel()
    kept, deleted = [(await api.endpoint(channel="orders"))["endpointGid"] for _ in range(2)]
    message = await api.publish({"n": 1})
    await settle(api, "delivered", kept)
    await settle(api, "delivered", deleted)
    assert (await api.delete(f"/v1/endpoints/{deleted}")).status_code in (202, 204)
    path = f"/v1/messages/{message['messageGid']}/redeliver"
    assert_problem(await api.post(path, {"endpointGid": deleted}), 409)
    assert (await redeliver(api, message))[deleted] == ("delivered", 1, "endpoint_deleted")
    assert (await api.delete(f"/v1/messages/{message['messageGid']}/payload")).status_code == 204
    problem = assert_problem(await api.post(path), 409)
    assert problem["type"].endswith("payload-erased")


@pytest.mark.both_databases
async def test_a_gate_is_neither_asked_again_nor_bypassed(api: Api) -> None:
    managers = await inbox(api)
    await api.channel(gates=[{"inbox": managers}])
    await api.post("/v1/subscriptions", {"endpointGid": managers, "channel": "orders"})
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    passed, declined = await api.publish({"n": 1}), await api.publish({"n": 2})
    path = f"/v1/messages/{declined['messageGid']}/redeliver"
    assert assert_problem(await api.post(path), 409)["type"].endswith("gate-not-passed")
    ok(await decide(api, declined, REJECT))
    assert assert_problem(await api.post(path), 409)["type"].endswith("gate-not-passed")
    ok(await decide(api, passed, APPROVE))
    await settle(api, "delivered", webhook)
    assert await redeliver(api, passed) == {webhook: ("accepted", 2, "round_opened")}
    path = f"/v1/messages/{passed['messageGid']}/redeliver"
    assert_problem(await api.post(path, {"endpointGid": managers}), 422, "endpointGid")
    assert ok(await api.get("/v1/tasks", state="open"))["data"] == []


@pytest.mark.both_databases
async def test_a_key_can_send_again_the_messages_that_it_can_see(api: Api) -> None:
    await api.channel()
    await api.post("/v1/tenants", {"name": "acme"})
    theirs = (await api.endpoint(channel="orders", tenant="acme"))["endpointGid"]
    others = (await api.endpoint(channel="orders"))["endpointGid"]
    publisher, another = await api.key("publish", name="a"), await api.key("publish", name="b")
    reader, tenant = await api.key("read", name="r"), await api.key(tenant="acme", name="t")
    message = await publisher.publish({"n": 1})
    await settle(api, "delivered", theirs)
    await settle(api, "delivered", others)
    path = f"/v1/messages/{message['messageGid']}/redeliver"
    assert_problem(await another.post(path), 404)
    assert_problem(await reader.post(path), 403)
    assert await redeliver(tenant, message) == {theirs: ("accepted", 2, "round_opened")}
    assert_problem(await tenant.post(path, {"endpointGid": others}), 422, "endpointGid")
    assert (await redeliver(publisher, message))[others] == ("accepted", 2, "round_opened")


@pytest.mark.both_databases
async def test_a_test_message_is_sent_to_no_other_endpoint(api: Api) -> None:
    await api.channel()
    gid, _ = [(await api.endpoint(channel="orders"))["endpointGid"] for _ in range(2)]
    message = accepted(await api.post(f"/v1/endpoints/{gid}/test"))
    await settle(api, "delivered", gid)
    assert await redeliver(api, message) == {gid: ("accepted", 2, "round_opened")}


async def test_a_message_to_very_many_is_sent_again_to_one_at_a_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_DELIVERIES", 2)
    await api.channel()
    gids = [(await api.endpoint(channel="orders"))["endpointGid"] for _ in range(4)]
    message = await api.publish({"n": 1})
    for gid in gids:
        await settle(api, "delivered", gid)
    path = f"/v1/messages/{message['messageGid']}/redeliver"
    assert assert_problem(await api.post(path), 409)["type"].endswith("too-many-deliveries")
    for gid in gids:
        assert await redeliver(api, message, endpointGid=gid) == {gid: ("accepted", 2, "round_opened")}
    assert await api.count("delivery") == 4


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize(("mode", "status"), [("http", "accepted"), ("poll", "available")])
async def test_retention_does_not_discard_the_round_that_a_replay_has_just_opened(
    store: Store, database: Database, other_database: Database, mode: str, status: str
) -> None:
    """The discard of a dead letter waits for the page of the replay, and then finds another round."""
    endpoint, message = await store.subscribed(), past.message(1)
    dead = past.delivery(message, endpoint, ended=None, status="dead_lettered", dead_lettered_at=now(), due_at=now())
    await keep(database, message, dead)
    async with database.write_connection() as connection:
        await connection.execute(text("UPDATE endpoint SET mode = :mode"), {"mode": mode})
    unused: Any = None
    activities = RecordingActivities(database, unused, unused, InputDefaults())
    async with other_database.writing() as session:
        for leg in await redelivery.lock_legs(session, [dead.gid]):
            await open_round(session, InputDefaults(), leg, "ann", "fixed", now())
        await session.flush()
        note = OperatorAction("retention", "untouched for 30 days")
        discarding = asyncio.create_task(activities.discard(DiscardInput(dead.gid, note, round=1)))
        await until_a_lock_is_awaited(database)
    await discarding
    async with database.read_connection() as connection:
        row = (await connection.execute(text("SELECT status, round FROM delivery"))).one()
        queued = (await connection.execute(text("SELECT count(*) FROM pull_queue"))).scalar_one()
    assert (row.status, row.round, queued) == (status, 2, int(mode == "poll"))
