"""The published client `axme`, unmodified, against `/axme`. Temporal is stopped in all of these tests."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
import pytest_asyncio
from axme import (  # type: ignore[import-untyped]
    AxmeAuthError,
    AxmeHttpError,
    AxmeRateLimitError,
    AxmeServerError,
    AxmeValidationError,
)

from api.main import end_streams
from everhook.audit.store import Actor
from everhook.axme.intents import IntentStatus
from everhook.axme.service import IntentViewer
from everhook.errors import Conflict
from everhook.ids import Kind, gid_of
from everhook.settings import Settings
from testing.api import API_KEY, JSON, Api, created, ok, openapi_document, running_api
from testing.axme import ORDER, Served, called, listen, served
from testing.waiting import assert_eventually
from tests.api.conftest import copied
from tests.api.test_pulling import acks, end_lease, poll
from tests.api.test_streaming import cannot_claim, offered

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(copied(migrated_file, tmp_path_factory.mktemp("axme"))) as found:
        yield found


@pytest.fixture
def agent() -> str:
    """The address of an agent that no other test has."""
    return f"agent://default/production/{uuid4().hex}"


async def test_an_agent_completes_an_order_and_its_sender_gets_the_result(running: Served, agent: str) -> None:
    def fulfil() -> None:
        for delivery in running.axme.listen(agent, wait_seconds=5, timeout_seconds=15):
            intent = running.axme.get_intent(delivery["intent_id"])
            result = {"action": "complete", "shipped": intent["payload"]["order_id"]}
            running.axme.resume_intent(delivery["intent_id"], result)
            return

    working = threading.Thread(target=fulfil)
    working.start()
    intent_id = await running.send(agent, key=f"fulfill-{agent}")
    event = await called(running.axme.wait_for, intent_id, timeout_seconds=15)
    await asyncio.to_thread(working.join)
    assert (event["status"], event["event_type"]) == ("COMPLETED", "intent.completed")
    assert event["details"] == {"result": {"shipped": "ord_123"}}
    assert (await running.get(intent_id))["result"] == {"shipped": "ord_123"}
    (delivery,) = ok(await running.api.get("/v1/deliveries", messageGid=gid_of(Kind.MESSAGE, UUID(intent_id))))["data"]
    assert delivery["status"] == "delivered"


async def test_the_body_of_a_resume_without_an_action_is_the_result(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    await running.listen(agent)
    settled = await called(running.axme.resume_intent, intent_id, {"answer": 42}, owner_agent=agent)
    assert (settled["ok"], settled["status"]) == (True, "COMPLETED")
    assert settled["intent"]["result"] == {"answer": 42}
    assert settled["completion_delivery"] == {"delivered": False, "reason": "reply_to_not_set"}


async def test_an_agent_fails_an_intent(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    await running.listen(agent)
    waiting = asyncio.create_task(called(running.axme.wait_for, intent_id, timeout_seconds=15))
    await running.resume(intent_id, action="fail", reason="no stock")
    event = await waiting
    assert (event["status"], event["event_type"]) == ("FAILED", "intent.failed")
    assert event["details"]["reason"] == "no stock"
    assert await poll(running.api, await running.endpoint(agent)) == []
    assert (await running.resume(intent_id, action="fail"))["status"] == "FAILED"
    with pytest.raises(AxmeValidationError, match="FAILED already") as refused:
        await running.resume(intent_id, action="complete")
    assert refused.value.status_code == 409


async def test_the_events_of_an_intent_are_numbered_and_can_be_resumed(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    events = await running.events(intent_id)
    assert [event["event_type"] for event in events] == ["intent.created", "intent.submitted", "intent.delivered"]
    await running.listen(agent)
    await running.resolve(intent_id, status="COMPLETED", result={"ok": True})
    later = await running.events(intent_id, since=events[-1]["seq"])
    assert [event["status"] for event in later] == ["IN_PROGRESS", "COMPLETED"]
    followed = await called(lambda: list(running.axme.observe(intent_id, since=2, wait_seconds=1)))
    assert followed == [events[-1], *later]
    seqs = [event["seq"] for event in events + later]
    assert seqs == sorted(set(seqs))


async def test_a_lease_that_expired_is_handed_out_again_above_the_cursor(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    (first,) = await running.listen(agent)
    await end_lease(running.api, await running.endpoint(agent))
    (second,) = await running.listen(agent, since=first["seq"])
    assert (first["intent_id"], second["intent_id"]) == (intent_id, intent_id)
    assert second["seq"] > first["seq"]
    assert (first["attempt"], second["attempt"]) == (1, 2)
    events = await running.events(intent_id, since=3)
    assert [event["status"] for event in events] == ["IN_PROGRESS", "WAITING", "IN_PROGRESS"]
    await running.resume(intent_id, action="complete")
    assert (await running.get(intent_id))["status"] == "COMPLETED"


async def test_an_agent_that_begins_anew_gets_its_open_intents_at_once(running: Served, agent: str) -> None:
    sent = {await running.send(agent) for _ in range(2)}
    first = await running.listen(agent, 2)
    again = await running.listen(agent, 2)  # since=0
    assert {each["intent_id"] for each in first} == {each["intent_id"] for each in again} == sent
    assert [each["attempt"] for each in again] == [2, 2]
    assert min(each["seq"] for each in again) > max(each["seq"] for each in first)


async def test_an_intent_that_never_arrived_is_handed_out_again_and_not_counted(running: Served, agent: str) -> None:
    for _ in range(2):
        await running.send(agent)
    first, second = await running.listen(agent, 2)
    (again,) = await running.listen(agent, since=first["seq"])
    assert again["intent_id"] == second["intent_id"]
    assert (again["attempt"], again["seq"] > second["seq"]) == (1, True)
    assert await poll(running.api, await running.endpoint(agent)) == []  # the first is still leased


async def test_a_listener_that_waits_is_handed_intents_without_a_claim(
    running: Served, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.resume(await running.send(agent), action="complete")
    gid = await running.endpoint(agent)
    listening = asyncio.create_task(running.listen(agent, 2))
    await offered(running.api, gid)
    cannot_claim(monkeypatch, running.api)
    sent = [await running.send(agent)]
    await offered(running.api, gid)
    sent.append(await running.send(agent))
    first, second = await listening
    assert [first["intent_id"], second["intent_id"]] == sent
    assert (first["attempt"], second["seq"] > first["seq"]) == (1, True)
    assert (await running.get(sent[0]))["status"] == "IN_PROGRESS"
    monkeypatch.undo()
    (again,) = await running.listen(agent, since=first["seq"])
    assert (again["intent_id"], again["attempt"], again["seq"] > second["seq"]) == (sent[1], 1, True)


async def test_an_agent_that_settles_intents_keeps_the_leases_of_the_others(running: Served, agent: str) -> None:
    for _ in range(2):
        await running.send(agent)
    first, second = await running.listen(agent, 2)
    before = await _lease_until(running, second)
    await running.resume(first["intent_id"], action="complete")
    assert await _lease_until(running, second) > before


async def _lease_until(running: Served, delivery: JSON) -> str:
    gid = delivery["delivery"]["deliveryGid"]
    rows = await running.api.rows("SELECT lease_until FROM pull_queue WHERE delivery_gid = :gid", gid=gid)
    return str(rows[0].lease_until)


async def test_a_stream_without_intents_ends_and_the_client_reconnects(running: Served, agent: str) -> None:
    with pytest.raises(TimeoutError):
        await called(lambda: list(running.axme.listen(agent, wait_seconds=1, timeout_seconds=1.1)))


async def test_an_intent_is_sent_once_for_an_idempotency_key(running: Served, agent: str) -> None:
    correlation_id, key = str(uuid4()), uuid4().hex
    first, second = [await running.send(agent, correlation_id=correlation_id, key=key) for _ in range(2)]
    assert first == second
    with pytest.raises(AxmeValidationError) as refused:
        await running.send(agent, correlation_id=correlation_id, key=key, payload={"order_id": "ord_124"})
    assert refused.value.status_code == 409
    assert await running.send(agent, correlation_id=correlation_id) != first  # it groups intents


async def test_an_intent_is_resolved_without_a_lease_once(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    settled = await running.resolve(intent_id, status="COMPLETED", result={"by": "hand"})
    assert settled["event"]["event_type"] == "intent.completed"
    assert settled["intent"]["result"] == {"by": "hand"}
    with pytest.raises(AxmeValidationError) as refused:
        await running.resolve(intent_id, status="CANCELED", reason="too late")
    assert refused.value.status_code == 409
    failed = await running.send(agent)
    settled = await running.resolve(failed, status="FAILED", error={"code": "E1"})
    assert (settled["status"], settled["event"]["details"]["reason"]) == ("FAILED", '{"code":"E1"}')


async def test_a_canceled_intent_is_not_handed_out_again(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    for _ in range(2):
        settled = await running.resolve(intent_id, status="CANCELED", reason="not needed")
        assert (settled["status"], settled["event"]["details"]["reason"]) == ("CANCELED", "not needed")
    assert await poll(running.api, await running.endpoint(agent)) == []


async def test_an_intent_past_its_deadline_is_timed_out_and_not_handed_out(running: Served, agent: str) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=1.3)
    intent_id = await running.send(agent, deadline_at=deadline.isoformat())
    event = await called(running.axme.wait_for, intent_id, wait_seconds=5, timeout_seconds=15)
    assert (event["status"], event["event_type"]) == ("TIMED_OUT", "intent.timed_out")
    assert await poll(running.api, await running.endpoint(agent)) == []
    with pytest.raises(AxmeValidationError, match="TIMED_OUT already"):
        await running.resume(intent_id, action="complete")


async def test_a_reply_is_sent_once(running: Served, agent: str) -> None:
    back = f"{agent}-back"
    intent_id = await running.send(agent, reply_to=back)
    settled = await running.resume(intent_id, action="complete", shipped=True)
    assert settled["completion_delivery"] == {"delivered": True, "reply_to": back}
    again = await running.resume(intent_id, action="complete", shipped=True)
    assert again["completion_delivery"]["delivered"] is False
    (reply,) = await running.listen(back)
    shown = await running.get(reply["intent_id"])
    assert shown["intent_type"] == "intent.completion.v1"
    assert shown["payload"] == {
        "intent_id": intent_id,
        "intent_type": "order.fulfillment.v1",
        "status": "COMPLETED",
        "result": {"shipped": True},
    }
    assert await poll(running.api, await running.endpoint(back)) == []


@pytest.mark.parametrize(("first", "status"), [("complete", "COMPLETED"), ("fail", "FAILED"), ("cancel", "CANCELED")])
@pytest.mark.parametrize("second", ["complete", "fail", "cancel"])
async def test_of_two_that_settle_an_intent_at_once_the_later_changes_nothing(
    running: Served, agent: str, first: str, status: str, second: str
) -> None:
    """Both have read the intent before either settles it."""
    services, replies = running.api.services, f"{agent}-replies"
    scope, actor = services.scope_of(None), Actor("carol")
    intent_id = await running.send(agent, reply_to=replies)
    intent = await services.intents.find(scope, IntentViewer(), UUID(intent_id))

    async def settle(how: str) -> None:
        if how == "complete":
            await services.intents.complete(scope, actor, intent, b"{}")
        elif how == "fail":
            await services.intents.fail(scope, actor, intent, "no stock")
        else:
            await services.intents.cancel(scope, actor, intent, "not needed")

    await settle(first)
    # A second cancel at the same time is refused, too; a later one is not.
    with nullcontext() if first == second != "cancel" else pytest.raises(Conflict):
        await settle(second)
    assert (await running.get(intent_id))["status"] == status
    items = ok(await running.api.get(f"/v1/endpoints/{await running.endpoint(replies)}/poll"))["data"]
    assert [item["payload"]["payload"]["status"] for item in items] == [status]


async def test_a_person_is_asked_and_decides(running: Served, agent: str) -> None:
    people = f"{agent}-people"
    asked = {"task_type": "approval", "title": "Budget?", "allowed_outcomes": ["approved", "rejected"]}
    intent_id = await running.send(people, human_task=asked)
    shown = await running.get(intent_id)
    assert (shown["status"], shown["lifecycle_waiting_reason"]) == ("WAITING", "WAITING_FOR_HUMAN")
    task = ok(await running.api.get(f"/v1/tasks/{shown['task_id']}"))
    assert (task["title"], task["payload"]["payload"]) == ("Budget?", {"order_id": "ord_123"})
    with pytest.raises(AxmeValidationError, match="task_result"):
        await running.resume(intent_id, action="complete")
    with pytest.raises(AxmeValidationError, match="outcome"):
        await running.resume(intent_id, task_result={"outcome": "maybe"})
    decision = {"outcome": "approved", "comment": "fine"}
    settled = await running.resume(intent_id, task_result=decision)
    assert (settled["status"], settled["intent"]["result"]) == ("COMPLETED", decision)


async def test_a_person_who_declines_fails_the_intent(running: Served, agent: str) -> None:
    intent_id = await running.send(agent, human_task={"allowed_outcomes": ["approved", "rejected"]})
    settled = await running.resume(intent_id, task_result={"outcome": "rejected"})
    assert (settled["status"], settled["event"]["details"]["reason"]) == ("FAILED", "declined")
    assert settled["event"]["details"]["result"] == {"outcome": "rejected"}


async def test_a_task_is_escalated_to_the_inbox_of_an_address(running: Served, agent: str) -> None:
    more: JSON = {"remind_after_seconds": 60, "max_reminders": 2, "escalate_to": f"{agent}-boss"}
    intent_id = await running.send(agent, human_task={"title": "Budget?"}, **more)
    (task,) = await running.api.rows(
        "SELECT document FROM task WHERE message_gid = :gid", gid=gid_of(Kind.MESSAGE, UUID(intent_id))
    )
    document = orjson.loads(task.document)
    assert document["reminders"] == {"afterSeconds": 60, "everySeconds": 60, "max": 2}
    assert document["escalation"] == {"afterReminders": 2, "to": await running.endpoint(f"{agent}-boss")}
    with pytest.raises(AxmeValidationError, match="escalate_to"):
        await running.send(agent, human_task={"title": "?"}, escalate_to="agent://acme/production/boss")
    await running.send(f"{agent}-robot")
    with pytest.raises(AxmeValidationError, match="escalate_to"):
        await running.send(agent, human_task={"title": "?"}, escalate_to=f"{agent}-robot")


async def test_a_task_ends_at_its_due_date_which_an_escalation_may_extend(running: Served, agent: str) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=90)
    intent_id = await running.send(agent, human_task={"title": "?"}, deadline_at=deadline.isoformat())
    services = running.api.services
    intent = await services.intents.find(services.scope_of(None), IntentViewer(), UUID(intent_id))
    assert replace(intent, asked_at=deadline + timedelta(seconds=1)).latest.status is IntentStatus.WAITING


async def test_a_key_for_one_inbox_decides_only_its_tasks(running: Served, agent: str) -> None:
    intent_id, foreign = [await running.send(name, human_task={"title": "?"}) for name in (agent, f"{agent}-other")]
    person = await running.key(f"tasks:{await running.endpoint(agent)}", name="paula")
    decision = {"task_result": {"outcome": "approved"}}
    with pytest.raises(AxmeHttpError) as missing:
        await called(person.resume_intent, foreign, decision)
    assert missing.value.status_code == 404
    with pytest.raises(AxmeAuthError, match="This needs a key with the scope"):
        await called(person.resolve_intent, intent_id, {"status": "CANCELED", "reason": "x"})
    assert (await called(person.resume_intent, intent_id, decision))["status"] == "COMPLETED"


async def test_an_agent_takes_no_human_task(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    with pytest.raises(AxmeValidationError, match="human_task"):
        await running.send(agent, human_task={"title": "?"})
    with pytest.raises(AxmeValidationError, match="asks no person"):
        await running.resume(intent_id, task_result={"outcome": "approved"})


async def test_an_acknowledgement_of_the_other_api_completes_an_intent(running: Served, agent: str) -> None:
    intent_id = await running.send(agent)
    gid = await running.endpoint(agent)
    (item,) = await poll(running.api, gid)
    assert item["payload"]["payload"] == {"order_id": "ord_123"}
    assert item["type"] == "order.fulfillment.v1"
    await acks(running.api, gid, acks=[{"lease": item["lease"], "result": {"n": 1}}])
    event = await called(running.axme.wait_for, intent_id, timeout_seconds=10)
    assert event["details"] == {"result": {"n": 1}}


async def test_a_sender_sees_and_cancels_its_own_intents(running: Served, agent: str) -> None:
    sender, other, reader = [
        await running.key(scope, name=name)
        for scope, name in (("publish", "alice"), ("publish", "bob"), ("read", "carol"))
    ]
    intent_id = await called(sender.send_intent, {**ORDER, "to_agent": agent})
    assert (await called(sender.get_intent, intent_id))["intent"]["status"] == "DELIVERED"
    assert (await called(reader.get_intent, intent_id))["intent"]["from_agent"] == "key:alice"
    for unseen in (other.get_intent, other.list_intent_events, lambda id: list(other.observe(id))):
        with pytest.raises(AxmeHttpError) as missing:
            await called(unseen, intent_id)
        assert missing.value.status_code == 404
    for refused in (
        lambda: reader.send_intent({**ORDER, "to_agent": agent}),
        lambda: next(sender.listen(agent)),
        lambda: sender.resume_intent(intent_id, {"action": "complete"}),
        lambda: reader.resume_intent(intent_id, {"action": "complete"}),
        lambda: sender.resolve_intent(intent_id, {"status": "COMPLETED", "result": {}}),
    ):
        with pytest.raises(AxmeAuthError, match="This needs a key with the scope"):
            await called(refused)
    canceled = await called(sender.resolve_intent, intent_id, {"status": "CANCELED", "reason": "changed my mind"})
    assert canceled["status"] == "CANCELED"


async def test_a_key_for_one_agent_receives_only_as_this_agent(running: Served, agent: str) -> None:
    intent_id, foreign = await running.send(agent), await running.send(f"{agent}-other")
    receiver = await running.key(f"receive:{await running.endpoint(agent)}", name="worker")
    (delivery,) = await listen(receiver, agent)
    assert (await called(receiver.get_intent, delivery["intent_id"]))["payload"] == {"order_id": "ord_123"}
    for address, status in ((f"{agent}-other", 403), (f"{agent}-unknown", 404)):
        with pytest.raises(AxmeHttpError) as refused:
            await listen(receiver, address)
        assert refused.value.status_code == status
    for call in (receiver.get_intent, lambda id: receiver.resume_intent(id, {"action": "complete"})):
        with pytest.raises(AxmeHttpError) as missing:
            await called(call, foreign)
        assert missing.value.status_code == 404
    await called(receiver.resume_intent, intent_id, {"action": "complete"})


async def test_tenants_do_not_see_each_others_intents(running: Served) -> None:
    name = uuid4().hex[:12]
    for tenant in (f"acme-{name}", f"globex-{name}"):
        created(await running.api.post("/v1/tenants", {"name": tenant}))
    address = f"agent://acme-{name}/production/billing"
    back = f"agent://default/production/{name}"
    intent_id = await running.send(address, reply_to=back)
    own, foreign = await running.key(tenant=f"acme-{name}"), await running.key(tenant=f"globex-{name}", name="eve")
    assert (await called(own.get_intent, intent_id))["intent"]["to_agent"] == address
    for call in (
        lambda: foreign.get_intent(intent_id),
        lambda: foreign.list_intent_events(intent_id),
        lambda: foreign.resume_intent(intent_id, {"action": "complete"}),
        lambda: foreign.resolve_intent(intent_id, {"status": "CANCELED", "reason": "x"}),
        lambda: foreign.get_agent(address),
        lambda: next(foreign.listen(address)),
    ):
        with pytest.raises(AxmeHttpError) as refused:
            await called(call)
        assert refused.value.status_code == 404
    assert (await called(foreign.list_agents, org_id=f"acme-{name}", workspace_id="production"))["agents"] == []
    (shown,) = (await called(own.list_agents, org_id=f"acme-{name}", workspace_id="production"))["agents"]
    assert shown["address"] == address
    (delivery,) = await listen(own, address)
    assert delivery["intent_id"] == intent_id
    settled = await called(own.resume_intent, intent_id, {"action": "complete"})
    assert settled["completion_delivery"] == {"delivered": True, "reply_to": back}  # the sender named it
    assert len(await running.listen(back)) == 1


async def test_only_administrators_create_tenants_by_naming_them(running: Served) -> None:
    sender = await running.key("publish")
    address = f"agent://{uuid4().hex}/production/billing"
    with pytest.raises(AxmeHttpError, match="There is no agent") as refused:
        await called(sender.send_intent, {**ORDER, "to_agent": address})
    assert refused.value.status_code == 404
    await running.send(address)
    await called(sender.send_intent, {**ORDER, "to_agent": f"{address}-2"})


async def test_a_deleted_agent_is_created_again_at_its_next_use(running: Served, agent: str) -> None:
    await running.send(agent)
    first = await running.endpoint(agent)
    assert (await running.api.delete(f"/v1/endpoints/{first}")).status_code == 204
    with pytest.raises(AxmeHttpError, match="There is no agent"):
        await running.endpoint(agent)
    intent_id = await running.send(agent)
    assert await running.endpoint(agent) != first
    (delivery,) = await running.listen(agent)
    assert delivery["intent_id"] == intent_id


async def test_senders_that_use_an_address_at_once_create_one_agent(running: Served, agent: str) -> None:
    sent = await asyncio.gather(*(running.send(agent) for _ in range(4)))
    assert len(set(sent)) == 4
    assert {each["intent_id"] for each in await running.listen(agent, 4)} == set(sent)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"intent_type": "order"}, "intent_type"),
        ({"to_agent": "agent://billing"}, "to_agent"),
        ({"to_agent": "agent://default/production/a\nb"}, "to_agent"),
        ({"reply_to": "nowhere"}, "reply_to"),
        ({"payload": [1]}, "payload"),
        ({"deadline_at": "2026-01-01T00:00:00Z"}, "deadline_at"),
        ({"deadline_at": "2036-01-01T00:00:00"}, "deadline_at"),
        ({"deadline_at": "tomorrow"}, "deadline_at"),
        ({"deadline_at": "9999-12-31T23:59:59-23:59"}, "deadline_at"),
        ({"max_delivery_attempts": 3}, "max_delivery_attempts"),
        ({"colour": "red"}, "colour"),
        ({"human_task": {"task_type": "poetry"}}, "human_task.task_type"),
        ({"human_task": {"title": "?", "allowed_outcomes": ["Not a name"]}}, "human_task.allowed_outcomes[0]"),
        ({"human_task": {"title": "?", "form_schema": {"type": "array"}}}, "human_task.form_schema"),
        ({"human_task": {"title": "?"}, "remind_after_seconds": 5}, "remind_after_seconds"),
    ],
)
async def test_a_wrong_intent_is_refused_by_field(running: Served, change: JSON, field: str) -> None:
    with pytest.raises(AxmeValidationError) as refused:
        await running.send(**{"agent": "agent://default/production/refused", **change})
    assert refused.value.status_code == 422
    assert refused.value.message.startswith(field)
    assert refused.value.body["error"]["code"] == "invalid-request"


@pytest.mark.parametrize(
    ("call", "body", "status"),
    [
        ("resolve", b'{"status": "CANCELED", "reason": "x\\u0000"}', 422),
        ("resolve", b'{"status": "FAILED", "error": "\xff"}', 400),
        ("resolve", b'{"status": "COMPLETED", "result": "\xff"}', 400),
        ("resume", b'{"action": "fail", "x": "\xff"}', 400),
        ("resume", b'{"x": "\xff"}', 400),
    ],
)
async def test_what_is_no_text_settles_no_intent(
    running: Served, agent: str, call: str, body: bytes, status: int
) -> None:
    intent_id = await running.send(agent)
    await running.listen(agent)
    response = await running.api.http.post(
        f"/axme/v1/intents/{intent_id}/{call}", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == status, response.text
    assert (await running.get(intent_id))["status"] == "IN_PROGRESS"


async def test_a_nul_names_no_agents(running: Served) -> None:
    response = await running.api.http.get("/axme/v1/agents", params={"org_id": "default", "workspace_id": "\0"})
    assert response.status_code == 422


async def test_errors_have_the_form_that_the_client_reads(running: Served, agent: str) -> None:
    with pytest.raises(AxmeAuthError, match="API key is not valid") as refused:
        await called(running.client("ek_wrong").get_intent, str(uuid4()))
    assert refused.value.status_code == 401
    for unknown in (str(uuid4()), "no-uuid", str(UUID(int=2**128 - 1))):
        with pytest.raises(AxmeHttpError, match=f"There is no intent {unknown}"):
            await running.get(unknown)
    with pytest.raises(AxmeHttpError, match="does not support this call") as unsupported:
        await called(running.axme.list_inbox)
    assert unsupported.value.status_code == 404
    with pytest.raises(AxmeValidationError) as large:
        await running.send(agent, payload={"text": "x" * 300_000})
    assert large.value.status_code == 413
    intent_id = await running.send(agent)
    with pytest.raises(AxmeValidationError, match="at most 16384") as result:
        await running.resume(intent_id, text="x" * 20_000)
    assert result.value.status_code == 413
    assert (await called(httpx.get, f"http://127.0.0.1:{running.port}/axme/health")).json() == {"ok": True}


async def test_responses_are_stored_nowhere(running: Served) -> None:
    url, headers = f"http://127.0.0.1:{running.port}/axme/v1/intents/{uuid4()}", {"x-api-key": API_KEY}
    for given in (headers, {}):
        response = await called(httpx.get, url, headers=given)
        assert response.headers["cache-control"] == "no-store"


async def test_streams_are_limited_and_end_with_the_server(migrated_file: Path, tmp_path: Path, agent: str) -> None:
    async with served(copied(migrated_file, tmp_path)) as own:
        streams, lifecycle = own.api.services.streams, own.api.services.lifecycle
        streams.limits = replace(streams.limits, per_endpoint=1)
        lifecycle.limits = replace(lifecycle.limits, streams=1)
        impatient = own.client(API_KEY, max_retries=0)
        waiting = await own.send(agent)
        calls = (
            lambda: next(impatient.listen(f"{agent}-idle", wait_seconds=60)),
            lambda: impatient.wait_for(waiting, wait_seconds=60),
        )
        tasks = [asyncio.create_task(called(call)) for call in calls]
        await assert_eventually(lambda: _assert_open(own.api))
        for call in calls:
            with pytest.raises(AxmeRateLimitError) as refused:
                await called(call)
            assert refused.value.retry_after is not None
        end_streams(own.api.app)
        own.closing.close()  # otherwise they connect again
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, AxmeServerError | httpx.TransportError | RuntimeError)


def _assert_open(api: Api) -> None:
    assert len(api.services.streams._open) == api.services.lifecycle._open["streams"] == 1


async def test_sending_is_limited_for_each_key(migrated_file: Path, tmp_path: Path, agent: str) -> None:
    limits = {"publish_rate": "1/hour", "max_payload_bytes": 1_000_000}
    settings = copied(migrated_file, tmp_path).model_copy(update=limits)
    async with served(settings) as own:
        await own.send(agent, payload={"text": "x" * 500_000})
        with pytest.raises(AxmeRateLimitError) as refused:
            await own.send(agent)
        assert refused.value.retry_after is not None


async def test_the_remaining_rates_are_in_the_headers(migrated_file: Path, tmp_path: Path, agent: str) -> None:
    async with served(copied(migrated_file, tmp_path).model_copy(update={"publish_rate": "5/hour"})) as own:
        ok(await own.api.patch("/v1/tenants/default", {"publishRate": "1/hour"}))
        intent = {**ORDER, "to_agent": agent, "correlation_id": str(uuid4())}
        accepted, refused = [await own.api.post("/axme/v1/intents", intent) for _ in range(2)]
        assert ok(accepted)["ok"]
        assert accepted.headers["ratelimit-policy"] == '"key";q=5;w=3600, "tenant";q=1;w=3600'
        assert accepted.headers["ratelimit"].startswith('"key";r=4;')
        assert (refused.status_code, refused.headers["ratelimit"][:12]) == (429, '"tenant";r=0')


async def test_axme_is_off_by_default(settings: Settings) -> None:
    assert Settings(dev=True).axme is False
    async with running_api(settings) as api:
        for method, path in (
            ("POST", "/axme/v1/intents"),
            ("GET", f"/axme/v1/intents/{uuid4()}"),
            ("GET", "/axme/v1/agents/default/production/billing/intents/stream"),
            ("GET", "/axme/health"),
        ):
            for headers in ({"x-api-key": API_KEY}, {"authorization": f"Bearer {API_KEY}"}):
                response = await api.http.request(method, path, headers=headers)
                assert response.status_code == 404, (path, response.text)
    assert not any("axme" in path for path in openapi_document()["paths"])


async def test_an_intent_that_does_not_fit_the_catalogue_is_refused_where_the_channel_rejects_it(
    running: Served, agent: str
) -> None:
    envelope = {"properties": {"payload": {"properties": {"order_id": {"type": "string"}}}}}
    created(await running.api.post("/v1/event-types", {"name": ORDER["intent_type"], "schema": envelope}))
    await running.api.channel("axme", validation="reject")
    try:
        await running.send(agent)
        with pytest.raises(AxmeValidationError, match=r"payload\.payload\.order_id") as refused:
            await running.send(agent, payload={"order_id": 1})
        assert refused.value.status_code == 422
        with pytest.raises(AxmeValidationError, match="catalogue"):
            await running.send(agent, intent_type="order.unknown.v1")
    finally:
        assert (await running.api.delete("/v1/channels/axme")).status_code == 204
    await running.send(agent, payload={"order_id": 1})
