"""Gates: people approve a message before it is sent. Temporal is stopped in all of these tests: nothing needs it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from activities.recording import RecordingActivities
from everhook.contracts import DeadLetterReason, DiscardInput, OperatorAction, PullCheck, RoundInput
from everhook.decisions.timers import TaskTimers
from everhook.delivery.overdue_store import overdue_window
from everhook.delivery.policy import resolve
from everhook.delivery.recorder_store import Recorder
from everhook.delivery.store import count_undispatched
from everhook.publishing import gate_progress_store
from everhook.receipts.receipt import claims_of
from everhook.settings import Settings
from everhook.storage.tables import Delivery, now
from everhook.temporal.client import connect
from testing.api import JSON, Api, accepted, assert_problem, created, ok, running_api
from testing.processes import refusing_port
from testing.receiver import Receiver
from tests.api.gating import ABOVE_1000, APPROVE, REJECT, decide, gate_of, inbox, open_task, statuses
from tests.api.test_waiting import follow_kinds


async def test_a_message_passes_its_steps_one_after_the_other(api: Api) -> None:
    managers, finance = await inbox(api), await inbox(api, "Finance")
    await api.channel(gates=[{"inbox": managers}, {"inbox": finance, "filter": ABOVE_1000}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    poll = created(await api.post("/v1/endpoints", {"mode": "poll", "channel": "orders"}))["endpointGid"]
    third = await inbox(api, "Third", channel="orders")
    message = await api.publish({"amount": 5000}, task={"title": "Approve order 1042?"})
    waiting = {webhook: "gated", poll: "gated", third: "gated"}
    assert await statuses(api, message) == {**waiting, managers: "awaiting_decision"}
    assert (await open_task(api, message))["title"] == "Approve order 1042?"
    assert ok(await api.get(f"/v1/endpoints/{poll}/poll", waitSeconds=0))["data"] == []
    ok(await decide(api, message, APPROVE))
    assert await statuses(api, message) == {**waiting, managers: "delivered", finance: "awaiting_decision"}
    gate = await gate_of(api, message)
    assert (gate["state"], gate["step"]) == ("open", 2)
    assert [(each["inbox"], each["state"]) for each in gate["steps"]] == [(managers, "passed"), (finance, "open")]
    shown = ok(await decide(api, message, APPROVE))
    assert [(each["inbox"], each["state"]) for each in shown["chain"]][:2] == [
        (managers, "decided"),
        (finance, "decided"),
    ]
    released = {webhook: "accepted", poll: "available", third: "awaiting_decision"}
    assert await statuses(api, message) == {**released, managers: "delivered", finance: "delivered"}
    assert (await gate_of(api, message))["state"] == "passed"
    (item,) = ok(await api.get(f"/v1/endpoints/{poll}/poll", waitSeconds=0))["data"]
    assert item["payload"] == {"amount": 5000}
    assert (await open_task(api, message))["title"] == "Approve order 1042?"


async def test_a_step_whose_filter_does_not_match_is_skipped(api: Api) -> None:
    managers, finance = await inbox(api), await inbox(api, "Finance")
    await api.channel(gates=[{"inbox": finance, "filter": ABOVE_1000}, {"inbox": managers}])
    await api.endpoint(channel="orders")
    message = await api.publish({"amount": 10})
    assert finance not in await statuses(api, message)
    ok(await decide(api, message, APPROVE))
    assert [each["state"] for each in (await gate_of(api, message))["steps"]] == ["skipped", "passed"]
    free = await api.publish({"amount": 10}, gates=[{"inbox": finance, "filter": ABOVE_1000}])
    assert await gate_of(api, free) is None
    assert set((await statuses(api, free)).values()) == {"accepted"}


async def test_the_gates_of_a_publish_replace_those_of_the_channel(api: Api) -> None:
    managers, finance = await inbox(api), await inbox(api, "Finance")
    await api.channel(gates=[{"inbox": managers}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    none = await api.publish({}, gates=[])
    assert await statuses(api, none) == {webhook: "accepted"}
    other = await api.publish({}, gates=[{"inbox": finance, "task": {"title": "Pay?"}}])
    assert await statuses(api, other) == {webhook: "gated", finance: "awaiting_decision"}
    assert (await open_task(api, other))["title"] == "Pay?"
    changed = ok(await api.patch("/v1/channels/orders", {"gates": []}))
    assert changed["gates"] is None
    assert await statuses(api, await api.publish({})) == {webhook: "accepted"}
    assert (await gate_of(api, other))["state"] == "open"


async def test_a_decline_discards_the_deliveries_that_wait(api: Api) -> None:
    managers = await inbox(api)
    await api.channel(gates=[{"inbox": managers}, {"inbox": await inbox(api)}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({})
    ok(await decide(await api.key("admin", name="ann"), message, REJECT))
    assert await statuses(api, message) == {webhook: "discarded", managers: "discarded"}
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
    assert (delivery["deadLetterReason"], delivery["resolvedBy"]) == ("declined", "ann")
    gate = await gate_of(api, message)
    assert (gate["state"], gate["reason"]) == ("declined", "declined")
    assert [each["state"] for each in gate["steps"]] == ["declined", "skipped"]
    body = ok(await api.get(f"/v1/messages/{message['messageGid']}/wait", timeoutSeconds=0))
    assert (body["state"], body["outcome"]) == ("settled", "declined")
    audit = ok(await api.get("/v1/audit", action="gate.declined"))["data"]
    assert [(each["actor"], each["subject"]) for each in audit] == [("ann", gate["gateGid"])]
    replay = await api.post(f"/v1/dead-letters/{delivery['deliveryGid']}/replay")
    assert_problem(replay, 409)


async def test_a_message_without_receivers_passes_its_steps_too(api: Api) -> None:
    await api.channel(gates=[{"inbox": await inbox(api)}, {"inbox": await inbox(api)}])
    message = await api.publish({})
    ok(await decide(api, message, APPROVE))
    ok(await decide(api, message, APPROVE))
    assert (await gate_of(api, message))["state"] == "passed"


async def test_an_inbox_that_subscribes_is_asked_once(api: Api) -> None:
    await api.channel()
    managers = await inbox(api, channel="orders")
    message = await api.publish({}, gates=[{"inbox": managers}])
    assert [each["endpointGid"] for each in message["deliveries"]] == [managers]


def is_step(each: Any) -> bool:
    return isinstance(each, dict) and "inbox" in each


@pytest.mark.parametrize(
    ("gates", "field"),
    [
        ([{"inbox": "INBOX"}, {"inbox": "ep_01m83prhbfe23sdyzab24cmhby"}], "gates[1].inbox"),
        ([{"inbox": "WEBHOOK"}], "gates[0].inbox"),
        ([{"inbox": "OTHER"}], "gates[0].inbox"),
        ([{}], "gates[0].inbox"),
        ([{"inbox": 7}], "gates[0].inbox"),
        ([7], "gates[0]"),
        ([{"inbox": "INBOX"}] * 11, "gates"),
        ([{"inbox": "INBOX", "filter": {"amount": {"$above": 1}}}], "gates[0].filter"),
        ([{"inbox": "INBOX"}, {"inbox": "INBOX", "task": {"kind": "wish"}}], "gates[1].task.kind"),
        ([{"inbox": "INBOX", "when": {}}], "gates[0].when"),
    ],
)
async def test_wrong_gates_are_refused_by_field(api: Api, gates: list[Any], field: str) -> None:
    await api.channel()
    created(await api.post("/v1/tenants", {"name": "acme"}))
    created(await api.post("/v1/tenants", {"name": "globex"}))
    named = {
        "INBOX": await inbox(api, tenant="acme"),
        "OTHER": await inbox(api, tenant="globex"),
        "WEBHOOK": (await api.endpoint(tenant="acme"))["endpointGid"],
    }
    given = [{**each, "inbox": named.get(each["inbox"], each["inbox"])} if is_step(each) else each for each in gates]
    body = {"type": "a", "payload": 1, "tenant": "acme", "gates": given}
    assert_problem(await api.try_publish(body), 422, field)
    refused = await api.try_batch([{"type": "a", "payload": 1}, body])
    assert_problem(refused, 422, f"messages[1].{field}")
    assert (await api.count("message"), await api.count("gate")) == (0, 0)
    if "OTHER" not in str(gates):  # an operator may name any inbox
        wrong = {"name": "other", "gates": given}
        assert_problem(await api.post("/v1/channels", wrong), 422)
        assert_problem(await api.patch("/v1/channels/orders", {"gates": given}), 422)


async def test_a_channel_of_everhook_has_no_gates(api: Api) -> None:
    gates = [{"inbox": await inbox(api)}]
    assert_problem(await api.patch("/v1/channels/everhook.events", {"gates": gates}), 422, "gates")
    assert_problem(await api.patch("/v1/channels/everhook.events", {}), 422)


async def test_a_channel_whose_inbox_cannot_be_asked_accepts_nothing_unapproved(api: Api) -> None:
    created(await api.post("/v1/tenants", {"name": "acme"}))
    managers = await inbox(api)
    await api.channel(gates=[{"inbox": managers}])
    body = {"type": "a", "payload": 1, "idempotencyKey": "order-1"}
    first = accepted(await api.try_publish(body))
    assert_problem(await api.try_publish({**body, "tenant": "acme"}), 422, "gates[0].inbox")
    assert (await api.delete(f"/v1/endpoints/{managers}")).status_code == 204
    assert_problem(await api.try_publish({"type": "a", "payload": 1}), 422, "gates[0].inbox")
    again = accepted(await api.try_publish(body))  # it was accepted before
    assert (again["messageGid"], again["duplicate"]) == (first["messageGid"], True)
    accepted(await api.try_publish({"type": "a", "payload": 1, "gates": []}))


async def test_an_idempotent_publish_has_the_same_gates(api: Api) -> None:
    await api.channel()
    gates = [{"inbox": await inbox(api)}]
    body = {"type": "a", "payload": 1, "idempotencyKey": "order-1", "gates": gates}
    accepted(await api.try_publish(body))
    assert accepted(await api.try_publish(body))["duplicate"]
    assert_problem(await api.try_publish({**body, "gates": []}), 409)
    assert await api.count("gate") == 1


async def test_deliveries_that_wait_for_a_gate_do_not_count_as_backlog(api: Api) -> None:
    await api.channel(gates=[{"inbox": await inbox(api)}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({})
    async with api.database.read_connection() as connection:
        assert await count_undispatched(connection, 10) == 1  # the step
        far = now() + timedelta(days=1)
        assert (await overdue_window(connection, far, None, rows=10, share=10)).overdue == []
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
    gid = delivery["deliveryGid"]
    assert_problem(await api.post(f"/v1/deliveries/{gid}/attempt-now"), 409)
    assert ok(await api.get(f"/v1/deliveries/{gid}/live"))["waitingFor"] == "the decisions of a gate"
    ok(await decide(api, message, APPROVE))
    # The process dies before it dispatches: the delivery is due, and has no workflow.
    await api.change_rows("UPDATE delivery SET due_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=gid)
    async with api.database.read_connection() as connection:
        (overdue,) = (await overdue_window(connection, far, None, rows=10, share=10)).overdue
        assert (overdue.gid, overdue.has_workflow) == (gid, False)


async def test_two_deciders_at_once_open_the_next_step_once(api: Api) -> None:
    await api.channel(gates=[{"inbox": await inbox(api)}, {"inbox": await inbox(api)}])
    message = await api.publish({})
    ann, bo = await api.key("admin", name="ann"), await api.key("admin", name="bo")
    responses = await asyncio.gather(decide(ann, message, APPROVE), decide(bo, message, APPROVE))
    assert sorted(each.status_code for each in responses) == [200, 409]
    assert (await api.count("task"), await api.count("attempt")) == (2, 1)


def recording(api: Api) -> RecordingActivities:
    return RecordingActivities(
        api.database, Recorder(api.database), api.services.tasks.issuers, api.services.messages._defaults
    )


async def expired(api: Api, message: JSON) -> str:
    """Let the open task of a message expire. Returns the gid of its delivery."""
    task = await open_task(api, message)
    await api.change_rows("UPDATE task SET due_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=task["taskGid"])
    await TaskTimers(api.database, api.services.tasks).check(PullCheck(task["deliveryGid"], 1, timedelta(days=30)))
    return str(task["deliveryGid"])


async def gated(api: Api, **task: Any) -> tuple[JSON, str]:
    """A message with a gate of one step, and the webhook that it waits for."""
    managers = await inbox(api, task=task)
    await api.channel(gates=[{"inbox": managers}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    return await api.publish({}), webhook


async def test_an_expired_step_keeps_the_message_waiting_and_its_replay_asks_again(api: Api) -> None:
    message, webhook = await gated(api)
    step = await expired(api, message)
    assert (await statuses(api, message))[webhook] == "gated"
    assert (await gate_of(api, message))["state"] == "open"
    await recording(api).open_round(RoundInput(step, 1, OperatorAction("ann", "back from leave")))
    ok(await decide(api, message, APPROVE))
    assert (await statuses(api, message))[webhook] == "accepted"


async def test_discarding_an_expired_step_discards_the_deliveries_that_wait(api: Api) -> None:
    message, webhook = await gated(api)
    step = await expired(api, message)
    for _ in range(2):
        await recording(api).discard(DiscardInput(step, OperatorAction("ann", "given up")))
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
    assert (delivery["status"], delivery["deadLetterReason"], delivery["resolvedBy"]) == ("discarded", "expired", "ann")
    assert delivery["resolutionReason"] == "given up"
    assert len(ok(await api.get("/v1/audit", action="gate.declined"))["data"]) == 1


async def test_a_step_that_is_declined_by_its_due_date_declines(api: Api) -> None:
    message, webhook = await gated(api, onDue="decline")
    await expired(api, message)
    assert (await statuses(api, message))[webhook] == "discarded"
    assert (await gate_of(api, message))["reason"] == "declined"


async def test_a_deleted_inbox_ends_the_gate(api: Api) -> None:
    message, webhook = await gated(api)
    task = await open_task(api, message)
    assert (await api.delete(f"/v1/endpoints/{task['inbox']}")).status_code == 204
    (row,) = await api.rows("SELECT delivery_gid, signal FROM pending_history")
    assert (row.delivery_gid, bool(row.signal)) == (task["deliveryGid"], True)
    await TaskTimers(api.database, api.services.tasks).check(PullCheck(task["deliveryGid"], 1, timedelta(days=30)))
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
    assert (delivery["status"], delivery["deadLetterReason"]) == ("discarded", "endpoint_deleted")


async def test_deleting_the_inbox_of_expired_steps_ends_their_gates(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_progress_store, "GATES_AT_ONCE", 2)
    first, webhook = await gated(api)
    managers = (await open_task(api, first))["inbox"]
    other = await inbox(api, "Finance")
    messages = [first, await api.publish({}), await api.publish({})]
    elsewhere = await api.publish({}, gates=[{"inbox": other}])
    for each in (*messages, elsewhere):
        await expired(api, each)
    assert (await api.delete(f"/v1/endpoints/{managers}")).status_code == 204
    for each in messages:
        gate = await gate_of(api, each)
        assert (gate["state"], gate["reason"]) == ("declined", "endpoint_deleted")
        assert await statuses(api, each) == {webhook: "discarded", managers: "dead_lettered"}
    audit = ok(await api.get("/v1/audit", action="gate.declined"))["data"]
    assert [each["detail"]["discarded"] for each in audit] == [1, 1, 1]
    assert {each["detail"]["messageGid"] for each in audit} == {each["messageGid"] for each in messages}
    assert (await gate_of(api, elsewhere))["state"] == "open"
    assert (await statuses(api, elsewhere))[webhook] == "gated"


async def test_a_step_whose_inbox_was_deleted_before_it_was_asked_ends_the_gate(api: Api) -> None:
    managers, finance = await inbox(api), await inbox(api)
    await api.channel(gates=[{"inbox": managers}, {"inbox": finance}])
    webhook = (await api.endpoint(channel="orders"))["endpointGid"]
    message = await api.publish({})
    assert (await api.delete(f"/v1/endpoints/{finance}")).status_code == 204
    ok(await decide(api, message, APPROVE))
    assert (await statuses(api, message))[webhook] == "discarded"
    assert (await gate_of(api, message))["reason"] == "endpoint_deleted"


async def test_a_delivery_released_to_a_deleted_inbox_is_dead_lettered_when_its_workflow_asks(api: Api) -> None:
    message, _ = await gated(api)
    third = await inbox(api, "Third", channel="orders")
    message = await api.publish({})
    assert (await api.delete(f"/v1/endpoints/{third}")).status_code == 204
    ok(await decide(api, message, APPROVE))
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=third))["data"]
    assert delivery["status"] == "awaiting_decision"
    gid = delivery["deliveryGid"]
    await api.change_rows("UPDATE delivery SET due_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=gid)
    async with api.database.read_connection() as connection:
        (overdue,) = (await overdue_window(connection, now(), None, rows=10, share=10)).overdue
    assert overdue.gid == gid
    state = await TaskTimers(api.database, api.services.tasks).check(PullCheck(gid, 1, timedelta(days=30)))
    assert state.reason is DeadLetterReason.ENDPOINT_DELETED


async def test_an_erased_payload_ends_the_gate(api: Api) -> None:
    message, webhook = await gated(api)
    assert (await api.delete(f"/v1/messages/{message['messageGid']}/payload")).status_code == 204
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
    assert (delivery["status"], delivery["deadLetterReason"]) == ("discarded", "payload_erased")
    assert (await gate_of(api, message))["state"] == "declined"


async def test_a_released_delivery_has_the_current_policy(api: Api) -> None:
    message, webhook = await gated(api)
    ok(await api.patch(f"/v1/endpoints/{webhook}", {"policy": {"preset": "patient"}}))
    ok(await decide(api, message, APPROVE))
    (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
    async with api.database.reading() as session:
        row = (await session.execute(select(Delivery).where(col(Delivery.gid) == delivery["deliveryGid"]))).scalar_one()
        view = await api.services.deliveries.view(session, row, limit=1)
    assert view.rounds[1][1] == resolve({"preset": "patient"})


async def test_the_life_of_a_gated_message(api: Api) -> None:
    message, _ = await gated(api)
    path = f"/v1/messages/{message['messageGid']}/events"
    assert [each["kind"] for each in await api.walk(path, limit=1)] == [
        "message.accepted",
        "message.gated",
        "task.opened",
    ]
    ok(await decide(api, message, APPROVE))
    events = await api.walk(path, limit=1)
    assert [each["kind"] for each in events] == [
        "message.accepted",
        "message.gated",
        "task.opened",
        "task.decided",
        "delivery.attempted",
        "delivery.delivered",
        "message.released",
    ]
    assert await api.walk(path, limit=50) == events
    declined = await api.publish({})
    ok(await decide(api, declined, REJECT))
    path = f"/v1/messages/{declined['messageGid']}/events"
    kinds = [each["kind"] for each in await api.walk(path, limit=2)]
    assert kinds[-2:] == ["message.declined", "message.settled"]
    assert kinds.count("delivery.discarded") == 2


async def test_a_stream_reports_the_events_of_a_gate(api: Api) -> None:
    message, _ = await gated(api)
    following = asyncio.create_task(follow_kinds(api, message["messageGid"], until="message.released"))
    ok(await decide(api, message, APPROVE))
    kinds = await following
    assert kinds[:2] == ["message.accepted", "message.gated"]
    assert kinds.count("message.gated") == 1
    declined = await api.publish({})
    ok(await decide(api, declined, REJECT))
    kinds = await follow_kinds(api, declined["messageGid"], until="message.settled")
    assert set(kinds) >= {"message.declined", "delivery.discarded"}


async def test_a_wait_is_for_the_receivers_and_not_for_the_steps(api: Api) -> None:
    message, webhook = await gated(api)
    path = f"/v1/messages/{message['messageGid']}/wait"
    ok(await decide(api, message, APPROVE))
    assert ok(await api.get(path, timeoutSeconds=0, until="first"))["state"] == "pending"
    await api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', dead_lettered_at = accepted_at WHERE endpoint_gid = :gid",
        gid=webhook,
    )
    body = ok(await api.get(path, timeoutSeconds=0))
    assert (body["state"], body["outcome"]) == ("settled", "dead_lettered")


async def test_a_tenant_sees_only_its_own_steps(api: Api) -> None:
    for name in ("acme", "globex"):
        created(await api.post("/v1/tenants", {"name": name}))
    managers, foreign = await inbox(api, tenant="acme"), await inbox(api, tenant="globex")
    await api.channel(gates=[{"inbox": managers}, {"inbox": foreign}])
    for name in ("acme", "globex"):
        await api.endpoint(channel="orders", tenant=name)
    message = await api.publish({})  # for all tenants
    acme, globex = await api.key(tenant="acme", name="ann"), await api.key(tenant="globex")
    assert ok(await acme.get("/v1/channels/orders"))["gates"] is None
    ok(await decide(acme, message, APPROVE))
    for tenant, visible in ((acme, [managers, None]), (globex, [None, foreign])):
        assert [each["inbox"] for each in (await gate_of(tenant, message))["steps"]] == visible
    ok(await decide(globex, message, APPROVE))
    assert set((await statuses(api, message)).values()) == {"delivered", "accepted"}


async def test_without_temporal_an_approved_message_is_sent_once_with_three_receipts(
    settings: Settings,
) -> None:
    """The process that decides makes the first attempt, as at a publish."""
    client = await connect(lazy=True, target_host=f"127.0.0.1:{refusing_port()}")
    async with Receiver() as receiver, running_api(settings, client) as api:
        managers, finance = await inbox(api), await inbox(api, "Finance")
        await api.channel(gates=[{"inbox": managers}, {"inbox": finance, "filter": ABOVE_1000}])
        webhook = (await api.endpoint(receiver.url, channel="orders"))["endpointGid"]
        message = await api.publish({"amount": 5000})
        ok(await decide(api, message, APPROVE))
        assert receiver.arrivals == []
        ok(await decide(api, message, APPROVE))
        body = ok(await api.get(f"/v1/messages/{message['messageGid']}/wait", timeoutSeconds=10))
        assert (body["outcome"], len(receiver.arrivals)) == ("delivered", 1)
        rows = await api.rows("SELECT gid, delivery_gid, jws FROM receipt ORDER BY gid")
        claims = [claims_of(row.jws) or {} for row in rows]
        asked = [each.get("decision") for each in claims]
        assert [each and each["earlierReceipts"] for each in asked] == [[], [rows[0].gid], None]
        (delivery,) = ok(await api.get("/v1/deliveries", endpointGid=webhook))["data"]
        assert (rows[2].delivery_gid, delivery["status"]) == (delivery["deliveryGid"], "delivered")
