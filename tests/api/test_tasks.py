"""Tasks of inboxes: asked, decided, refused. Temporal is stopped in all of these tests: nothing here needs it."""

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorAction, PullCheck
from everhook.decisions.timers import TaskTimers
from everhook.delivery.store import open_round
from everhook.inbox.deadlines_store import ask_again
from everhook.lifecycle.watch import CHECK_S
from everhook.publishing.erasure_store import finish_erasures
from everhook.receipts.receipt import claims_of
from everhook.storage.bulk import Bulk
from testing.api import JSON, Api, assert_problem, created, ok
from tests.api.test_waiting import events, follow_kinds, wait

REJECT = {"outcome": "rejected", "comment": "too expensive", "version": 1}
APPROVE = {"outcome": "approved", "version": 1}


async def inbox(api: Api, **task: Any) -> str:
    """An inbox that subscribes to everything on `orders`."""
    options = {"name": "Managers", "task": task, "groups": {"finance": ["bo"]}}
    made = created(await api.post("/v1/endpoints", {"mode": "inbox", "channel": "orders", "options": options}))
    gid: str = made["endpointGid"]
    return gid


async def ask(api: Api, **task: Any) -> str:
    """Publish a message with a task to a new inbox. Returns the gid of the task."""
    await api.channel()
    await inbox(api)
    published = await api.publish({"orderId": 1042}, task={"title": "Approve order 1042?", **task})
    assert [each["status"] for each in published["deliveries"]] == ["awaiting_decision"]
    (found,) = ok(await api.get("/v1/tasks"))["data"]
    gid: str = found["taskGid"]
    return gid


async def decide(api: Api, gid: str, body: JSON) -> httpx.Response:
    return await api.post(f"/v1/tasks/{gid}/decide", body)


async def delivery_of(api: Api, gid: str) -> JSON:
    task = ok(await api.get(f"/v1/tasks/{gid}"))
    return ok(await api.get(f"/v1/deliveries/{task['deliveryGid']}"))


async def test_a_task_is_filled_with_the_defaults_of_its_inbox_and_kind(api: Api) -> None:
    await api.channel()
    gid = await inbox(api, dueSeconds=3600, assignees=["ann"])
    await api.publish({"orderId": 1042}, task={"title": "Check order 1042", "kind": "review"})
    (found,) = ok(await api.get("/v1/tasks", inbox=gid, state="open", assignee="ann"))["data"]
    shown = ok(await api.get(f"/v1/tasks/{found['taskGid']}"))
    assert (shown["title"], shown["payload"], shown["version"]) == ("Check order 1042", {"orderId": 1042}, 1)
    assert [each["name"] for each in shown["task"]["outcomes"]] == ["approved", "changes_requested", "rejected"]
    assert (shown["task"]["dueSeconds"], shown["assignees"]) == (3600, ["ann"])
    assert ok(await api.get("/v1/tasks", assignee="an"))["data"] == []
    assert ok(await api.get("/v1/tasks", overdue=True))["data"] == []


async def test_an_approval_delivers_with_its_form_data_and_a_decision_receipt(api: Api) -> None:
    form = {"type": "object", "required": ["costCentre"], "properties": {"costCentre": {"type": "string"}}}
    gid = await ask(api, form=form)
    assert_problem(await decide(api, gid, APPROVE), 422, "data.costCentre")
    shown = ok(await decide(api, gid, APPROVE | {"data": {"costCentre": "4711"}, "comment": "fine"}))
    assert (shown["state"], shown["outcome"], shown["decidedBy"]) == ("decided", "approved", "environment")
    delivery = await delivery_of(api, gid)
    (attempt,) = delivery["attempts"]
    assert (delivery["status"], attempt["verdict"]) == ("delivered", "delivered")
    (row,) = await api.rows("SELECT response_body FROM attempt")
    assert row.response_body == b'{"outcome":"approved","comment":"fine","data":{"costCentre":"4711"}}'
    claims = claims_of((await api.rows("SELECT jws FROM receipt"))[0].jws) or {}
    assert claims["decision"]["taskGid"] == gid
    assert claims["decision"]["payloadSha256"] == claims["requestSha256"]
    audit = ok(await api.get("/v1/audit", action="task.decided"))["data"]
    assert [each["subject"] for each in audit] == [gid]


async def test_each_wrong_field_of_a_form_is_named(api: Api) -> None:
    fields = {"costCentre": {"type": "string", "minLength": 4}, "amount": {"type": "number"}, "day": {"type": "string"}}
    fields |= {"count": {"type": "integer"}}
    gid = await ask(api, form={"type": "object", "required": ["day"], "properties": fields})
    data = {"costCentre": "47", "amount": "much", "colour": "red", "count": 2**64}
    refused = await decide(api, gid, APPROVE | {"data": data})
    problem = assert_problem(refused, 422)
    assert {each["field"]: each["code"] for each in problem["errors"]} == {
        "data.day": "missing",
        "data.colour": "extra_forbidden",
        "data.amount": "invalid",
        "data.costCentre": "invalid",
        "data.count": "invalid",
    }
    assert ok(await api.get(f"/v1/tasks/{gid}"))["state"] == "open"


async def test_a_quorum_may_be_as_large_as_the_assignees_or_a_group(api: Api) -> None:
    await ask(api, quorum=2, assignees=["ann", "bo"])
    await publish_another(api, quorum=5, assignees=["ann", "group:finance"])


async def test_a_rejection_discards_the_delivery_as_declined(api: Api) -> None:
    gid = await ask(api)
    assert_problem(await decide(api, gid, {"outcome": "rejected", "version": 1}), 422, "comment")
    ok(await decide(api, gid, REJECT))
    delivery = await delivery_of(api, gid)
    assert (delivery["status"], delivery["deadLetterReason"]) == ("discarded", "declined")
    assert len(delivery["attempts"]) == 1
    assert await kinds(api) == ["task.opened", "task.decided"]  # it is no failure


async def test_two_deciders_at_once_make_one_decision(api: Api) -> None:
    gid = await ask(api)
    ann, bo = await api.key("admin", name="ann"), await api.key("admin", name="bo")
    responses = await asyncio.gather(decide(ann, gid, APPROVE), decide(bo, gid, REJECT))
    assert sorted(each.status_code for each in responses) == [200, 409]
    refused = next(each for each in responses if each.status_code == 409)
    assert assert_problem(refused, 409)["type"] == "/problems/already-decided"
    assert (await api.count("attempt"), await api.count("receipt")) == (1, 1)


async def test_the_same_decision_again_changes_nothing(api: Api) -> None:
    gid = await ask(api)
    first = ok(await decide(api, gid, APPROVE))
    assert ok(await decide(api, gid, APPROVE)) == first
    assert_problem(await decide(api, gid, REJECT), 409)
    assert await api.count("attempt") == 1


async def test_only_assignees_decide_and_never_the_requester(api: Api) -> None:
    gid = await ask(api, assignees=["ann", "group:finance", "environment"], excludeRequester=True)
    for name, status in (("eve", 403), ("bo", 200)):
        assert (await decide(await api.key("admin", name=name), gid, APPROVE)).status_code == status
    again = await publish_another(api, assignees=["environment"], excludeRequester=True)
    problem = assert_problem(await decide(api, again, APPROVE), 403)
    assert problem["detail"] == f"The publisher of the message may not decide {again}: someone else has to."


async def publish_another(api: Api, **task: Any) -> str:
    published = await api.publish({"orderId": 1043}, task=task)
    tasks = ok(await api.get("/v1/tasks"))["data"]
    return next(str(each["taskGid"]) for each in tasks if each["messageGid"] == published["messageGid"])


async def test_a_quorum_needs_several_people(api: Api) -> None:
    gid = await ask(api, quorum=2)
    assert ok(await decide(api, gid, APPROVE))["state"] == "open"
    assert ok(await decide(api, gid, APPROVE))["state"] == "open"  # the same person counts once
    shown = ok(await decide(await api.key("admin", name="bo"), gid, APPROVE))
    assert (shown["state"], [each["by"] for each in shown["decisions"]]) == ("decided", ["environment", "bo"])


async def test_a_delegation_moves_the_version(api: Api) -> None:
    gid = await ask(api, assignees=["environment"])
    ok(await api.post(f"/v1/tasks/{gid}/comment", {"comment": "asked the supplier"}))
    shown = ok(await api.post(f"/v1/tasks/{gid}/delegate", {"to": "bo", "comment": "on leave"}))
    assert (shown["version"], shown["assignees"]) == (2, ["bo"])
    assert [each["kind"] for each in shown["notes"]] == ["commented", "delegated"]
    bo = await api.key("admin", name="bo")
    assert assert_problem(await decide(bo, gid, APPROVE), 409)["type"] == "/problems/task-changed"
    assert ok(await decide(bo, gid, APPROVE | {"version": 2}))["outcome"] == "approved"


def _a_form(required: Sequence[Any] = (), **of_field: Any) -> JSON:
    return {"form": {"type": "object", "properties": {"a": {"type": "number", **of_field}}, "required": [*required]}}


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ({"quorum": 0}, "task.quorum"),
        ({"quorum": 3, "assignees": ["ann", "bo", "ann"]}, "task.quorum"),
        ({"kind": "wish"}, "task.kind"),
        ({"titel": "x"}, "task.titel"),
        ({"escalation": {"afterReminders": 1, "to": "ep_directors"}}, "task.escalation.to"),
        ({"onDue": "pass", "outcomes": [{"name": "no", "effect": "decline"}]}, "task.onDue"),
        ({"links": [{"title": "x", "url": "javascript:alert(1)"}]}, "task.links[0].url"),
        ({"outcomes": [{"name": "a"}, {"name": "a"}]}, "task.outcomes"),
        ({"form": {"type": "array"}}, "task.form.type"),
        (
            {"form": {"type": "object", "properties": {"a": {"type": "object"}}}},
            "task.form.properties.a.type",
        ),
        (_a_form(required=[[]]), "task.form.required"),
        (_a_form(default=[1]), "task.form.properties.a.default"),
        (_a_form(enum=[[1]]), "task.form.properties.a.enum"),
        (_a_form(default=json.loads("[" * 300 + "]" * 300)), "task.form"),
        (_a_form(minimum=2**64), "task.form"),
        (
            {"form": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}},
            "task.form.properties.a.pattern",
        ),
    ],
)
async def test_a_wrong_task_is_refused_by_field(api: Api, task: JSON, field: str) -> None:
    await api.channel()
    assert_problem(await api.try_publish({"type": "a", "payload": 1, "task": task}), 422, field)
    assert await api.count("message") == 0


async def test_each_wrong_member_of_a_task_is_named(api: Api) -> None:
    """Also where one member has to fit another."""
    await api.channel()
    wrong = {
        "titel": "x",
        "outcomes": [{"name": "no", "effect": "decline"}],
        "onDue": "pass",
        "form": {"type": "array"},
        "assignees": ["ann"],
        "quorum": 2,
        "links": [{"title": "", "url": "ftp://a.example"}],
    }
    problem = assert_problem(await api.try_publish({"type": "a", "payload": 1, "task": wrong}), 422)
    assert {each["field"]: each["message"] for each in problem["errors"]} == {
        "task.titel": "is not a known field; did you mean title?",
        "task.onDue": "no outcome has the effect `pass`",
        "task.form.type": "is `object`",
        "task.quorum": "is more than the number of assignees",
        "task.links[0].title": "has too few characters; the minimum is 1",
        "task.links[0].url": r"must match the pattern ^https?://[^\s\x00-\x1f]+$",
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "inbox"}, "options.name"),
        ({"mode": "inbox", "options": {"name": "x", "leaseSeconds": 60}}, "options.leaseSeconds"),
        ({"mode": "inbox", "options": {"name": "x", "task": {"quorum": 0}}}, "options.task.quorum"),
        (
            {
                "mode": "inbox",
                "options": {
                    "name": "x",
                    "task": {"quorum": 3, "assignees": ["ann", "group:finance"]},
                    "groups": {"finance": ["ann", "bo"]},
                },
            },
            "options.task.quorum",
        ),
        (
            {"mode": "inbox", "options": {"name": "x", "task": {"assignees": ["ann", "group:finance"]}}},
            "options.task.assignees[1]",
        ),
        (
            {
                "mode": "inbox",
                "options": {"name": "x", "task": {"escalation": {"afterReminders": 1, "to": "group:finance"}}},
            },
            "options.task.escalation.to",
        ),
        (
            {
                "mode": "inbox",
                "options": {"name": "x", "task": {"assignees": ["group:finance"]}, "groups": {"finance": []}},
            },
            "options.task.quorum",
        ),
        ({"mode": "inbox", "options": {"name": "x", "task": _a_form(required=[[]])}}, "options.task.form.required"),
        (
            {"mode": "inbox", "options": {"name": "x", "task": _a_form(default=json.loads("[" * 300 + "]" * 300))}},
            "options.task.form",
        ),
        ({"mode": "inbox", "options": {"name": "x", "groups": {"finance": [""]}}}, "options.groups"),
        ({"mode": "inbox", "options": {"name": "x", "groups": {"a\nb": ["ann"]}}}, "options.groups"),
        ({"mode": "inbox", "options": {"name": "x"}, "url": "https://a.example/"}, "url"),
        ({"mode": "poll", "options": {"name": "x"}}, "options.name"),
    ],
)
async def test_an_inbox_has_its_own_options(api: Api, body: JSON, field: str) -> None:
    assert_problem(await api.post("/v1/endpoints", body), 422, field)
    assert await api.count("endpoint") == 0


OF_TASK = ("title", "kind", "outcomes", "assignees", "quorum", "dueSeconds", "onDue", "form", "links")


@pytest.mark.parametrize("is_stored", [False, True], ids=["new", "stored by an earlier version"])
async def test_null_in_the_options_of_an_inbox_is_like_absent(api: Api, is_stored: bool) -> None:
    await api.channel()
    options: JSON = {"name": "Managers", "task": dict.fromkeys(OF_TASK)}
    made = created(await api.post("/v1/endpoints", {"mode": "inbox", "channel": "orders", "options": options}))
    if is_stored:
        await api.change_rows("UPDATE endpoint SET options = :options", options=json.dumps(options))
    await api.publish({"n": 1})
    (task,) = ok(await api.get("/v1/tasks", inbox=made["endpointGid"]))["data"]
    shown = ok(await api.get(f"/v1/tasks/{task['taskGid']}"))
    assert (shown["title"], shown["task"]["kind"]) == ("Managers: order.created", "approval")
    ok(await api.post(f"/v1/tasks/{task['taskGid']}/decide", {"outcome": "approved", "version": task["version"]}))


async def test_a_task_that_an_earlier_version_stored_with_nulls_is_shown_and_decided(api: Api) -> None:
    gid = await ask(api)
    ((text,),) = await api.rows("SELECT document FROM task")
    nulls = dict.fromkeys(("title", "description", "form", "links", "excludeRequester", "reminders", "escalation"))
    await api.change_rows("UPDATE task SET document = :document", document=json.dumps(json.loads(text) | nulls))
    assert [task["title"] for task in ok(await api.get("/v1/tasks"))["data"]] == ["Untitled"]
    shown = ok(await api.get(f"/v1/tasks/{gid}"))
    assert shown["title"] == "Untitled"
    ok(await api.post(f"/v1/tasks/{gid}/decide", {"outcome": "approved", "version": shown["version"]}))


@pytest.mark.parametrize(
    ("rule", "value", "status"),
    [
        ({"multipleOf": 0.01}, 19.99, 200),
        ({"multipleOf": 0.01}, 19.995, 422),
        ({"multipleOf": 1e-300}, 1e300, 200),
        ({"type": "integer"}, 2**64 - 1, 200),
        ({"type": "integer"}, 2**64, 422),
        ({}, -(10**25), 422),
    ],
)
async def test_numbers_of_a_form_are_decimal_and_of_64_bits(api: Api, rule: JSON, value: float, status: int) -> None:
    gid = await ask(api, **_a_form(**rule))
    version = ok(await api.get(f"/v1/tasks/{gid}"))["version"]
    decision = {"outcome": "approved", "version": version, "data": {"a": value}}
    response = await api.post(f"/v1/tasks/{gid}/decide", decision)
    assert response.status_code == status
    if status == 422:
        assert_problem(response, 422, "data.a")


async def test_no_attempt_can_be_asked_for_while_a_person_decides(api: Api) -> None:
    gid = await ask(api)
    task = ok(await api.get(f"/v1/tasks/{gid}"))
    assert_problem(await api.post(f"/v1/deliveries/{task['deliveryGid']}/attempt-now"), 409)


async def test_an_erased_payload_cannot_be_approved(api: Api) -> None:
    gid = await ask(api)
    task = ok(await api.get(f"/v1/tasks/{gid}"))
    assert (await api.delete(f"/v1/messages/{task['messageGid']}/payload")).status_code == 204
    version = ok(await api.get(f"/v1/tasks/{gid}"))["version"]
    refused = assert_problem(await decide(api, gid, APPROVE | {"version": version}), 409)
    assert refused["type"] == "/problems/payload-erased"


async def a_delegation_to(api: Api, gid: str, to: str) -> httpx.Response:
    return await api.post(f"/v1/tasks/{gid}/delegate", {"to": to})


async def test_a_task_is_not_delegated_to_those_who_cannot_decide_it(api: Api) -> None:
    gid = await ask(api, assignees=["ann"], excludeRequester=True)
    for to, why in (("group:finanse", "no group finanse"), ("environment", "published this message")):
        ann = await api.key("admin", name="ann")
        assert why in assert_problem(await a_delegation_to(ann, gid, to), 422, "to")["detail"]
    assert ok(await a_delegation_to(ann, gid, "group:finance"))["assignees"] == ["group:finance"]


async def escalated(api: Api, ours: list[str], theirs: list[str]) -> tuple[str, dict[str, Api]]:
    """A task that was escalated to another inbox, each with its default assignees; and a key of somebody else for the
    first inbox, for the second one, and for a third one."""
    await api.channel()
    first = await inbox(api, assignees=ours)
    options = {"name": "Directors", "task": {"assignees": theirs}, "groups": {"board": ["dee"]}}
    second, third = [
        created(await api.post("/v1/endpoints", {"mode": "inbox", "options": options}))["endpointGid"] for _ in range(2)
    ]
    escalation = {"reminders": {"afterSeconds": 60, "everySeconds": 60, "max": 1}}
    gid = await publish_another(api, **escalation, escalation={"afterReminders": 0, "to": second})
    await api.change_rows("UPDATE task SET remind_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=gid)
    await timers(api).check(await check_of(api, gid))
    assert ok(await api.get(f"/v1/tasks/{gid}"))["escalatedTo"] == second
    scopes = {"first": first, "second": second, "third": third}
    return gid, {name: await api.key(f"tasks:{gid}", name="eve") for name, gid in scopes.items()}


async def test_a_key_for_the_inbox_that_a_task_was_escalated_to_sees_and_decides_it(api: Api) -> None:
    gid, keys = await escalated(api, ["ann"], ["group:board", "eve"])
    ours = await publish_another(api)
    assert [each["taskGid"] for each in ok(await keys["second"].get("/v1/tasks"))["data"]] == [gid]
    assert ok(await keys["third"].get("/v1/tasks"))["data"] == []
    for key, task in ((keys["third"], gid), (keys["second"], ours)):
        assert_problem(await key.get(f"/v1/tasks/{task}"), 404)
        for call, body in (("decide", APPROVE), ("delegate", {"to": "bo"}), ("comment", {"comment": "hello"})):
            assert_problem(await key.post(f"/v1/tasks/{task}/{call}", body), 404)
    assert ok(await decide(keys["second"], gid, APPROVE | {"version": 2}))["decidedBy"] == "eve"


@pytest.mark.parametrize(
    ("ours", "theirs", "asked", "where"),
    [(["ann"], [], "second", "escalatedTo"), ([], ["dee"], "first", "inbox")],
)
async def test_an_inbox_that_asks_everyone_asks_those_who_may_use_it(
    api: Api, ours: list[str], theirs: list[str], asked: str, where: str
) -> None:
    gid, keys = await escalated(api, ours, theirs)
    other = keys["second" if asked == "first" else "first"]
    problem = assert_problem(await decide(other, gid, APPROVE | {"version": 2}), 403)
    everyone = f"those who may use the inbox {(await api.get(f'/v1/tasks/{gid}')).json()[where]}"
    assert problem["detail"] == f"Only {', '.join([*ours, everyone, *theirs])} may decide {gid}."
    assert ok(await decide(keys[asked], gid, APPROVE | {"version": 2}))["decidedBy"] == "eve"


async def kinds(api: Api) -> list[str]:
    """The kinds of the events in the outbox, in their order."""
    return [row.kind for row in await api.rows("SELECT kind FROM operational_event ORDER BY gid")]


def timers(api: Api) -> TaskTimers:
    return TaskTimers(api.database, api.services.tasks)


async def be_due(api: Api, gid: str) -> PullCheck:
    """Set the due date of a task to the past. Returns the check that its workflow makes."""
    await api.change_rows("UPDATE task SET due_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=gid)
    return await check_of(api, gid)


async def check_of(api: Api, gid: str) -> PullCheck:
    task = ok(await api.get(f"/v1/tasks/{gid}"))
    return PullCheck(task["deliveryGid"], 1, timedelta(days=30))


async def test_without_a_decision_in_time_it_expires_and_a_replay_asks_again(api: Api) -> None:
    gid = await ask(api)
    check = await be_due(api, gid)
    assert len(ok(await api.get("/v1/tasks", overdue=True))["data"]) == 1
    state = await timers(api).check(check)
    assert (state.status, state.reason) == (DeliveryStatus.DEAD_LETTERED, DeadLetterReason.EXPIRED)
    assert_problem(await decide(api, gid, APPROVE), 409)
    async with api.database.writing() as session:
        await ask_again(session, check.delivery_gid)
    shown = ok(await api.get(f"/v1/tasks/{gid}"))
    assert (shown["state"], shown["version"], shown["overdue"]) == ("open", 3, False)
    ok(await decide(api, gid, APPROVE | {"version": 3}))


async def test_a_task_can_be_declined_by_its_due_date(api: Api) -> None:
    gid = await ask(api, onDue="decline")
    assert (await timers(api).check(await be_due(api, gid))).status is DeliveryStatus.DISCARDED
    assert (await delivery_of(api, gid))["deadLetterReason"] == "declined"


async def test_a_timer_that_fires_after_a_decision_does_nothing(api: Api) -> None:
    gid = await ask(api)
    ok(await decide(api, gid, APPROVE))
    assert (await timers(api).check(await be_due(api, gid))).status is DeliveryStatus.DELIVERED


async def test_a_task_whose_payload_was_erased_ends_when_its_workflow_asks(api: Api) -> None:
    gid = await ask(api)
    task = ok(await api.get(f"/v1/tasks/{gid}"))
    assert (await api.delete(f"/v1/messages/{task['messageGid']}/payload")).status_code == 204
    state = await timers(api).check(PullCheck(task["deliveryGid"], 1, timedelta(days=30)))
    assert state.reason is DeadLetterReason.PAYLOAD_ERASED


async def test_a_comment_on_a_task_that_its_workflow_did_not_end_is_erased(api: Api) -> None:
    gid = await ask(api)
    task = ok(await api.get(f"/v1/tasks/{gid}"))
    assert (await api.delete(f"/v1/messages/{task['messageGid']}/payload")).status_code == 204
    await finish_erasures(Bulk(api.database), -timedelta(minutes=1))
    ok(await api.post(f"/v1/tasks/{gid}/comment", {"comment": "Jane Doe called"}))
    await timers(api).check(PullCheck(task["deliveryGid"], 1, timedelta(days=30)))
    await finish_erasures(Bulk(api.database), -timedelta(minutes=1))
    assert ok(await api.get(f"/v1/tasks/{gid}"))["notes"] == []
    assert await api.count("payload_erasure") == 0


async def test_a_sender_follows_a_task_and_gets_its_decision(api: Api) -> None:
    gid = await ask(api, assignees=["environment"], reminders={"afterSeconds": 60, "everySeconds": 60, "max": 1})
    message = ok(await api.get(f"/v1/tasks/{gid}"))["messageGid"]
    waiting = asyncio.create_task(wait(api, message))
    following = asyncio.create_task(follow_kinds(api, message, until="message.settled"))
    await be_reminded(api, gid)
    ok(await api.post(f"/v1/tasks/{gid}/comment", {"comment": "a secret"}))
    ok(await api.post(f"/v1/tasks/{gid}/delegate", {"to": "bo"}))
    bo = await api.key("admin", name="bo")
    ok(await decide(bo, gid, {"outcome": "rejected", "comment": "too expensive", "version": 2}))
    found = await waiting
    (delivery,) = found["deliveries"]
    assert (found["outcome"], delivery["status"], delivery["outcome"]) == ("declined", "discarded", "rejected")
    assert delivery["result"] == {"outcome": "rejected", "comment": "too expensive"}
    listed = await events(api, message)
    kinds = [each["kind"] for each in listed]
    assert kinds == [
        "message.accepted",
        "task.opened",
        "task.reminded",
        "task.delegated",
        "task.decided",
        "delivery.attempted",
        "delivery.discarded",
        "message.settled",
    ]
    assert sorted(await following) == sorted(kinds)
    assert len({each["id"] for each in listed}) == len(listed)
    assert listed[3]["data"] == {"round": 1, "taskGid": gid, "by": "environment", "to": "bo"}
    assert "a secret" not in str(listed)
    assert await events(api, message, limit=1) == listed


async def test_a_stream_has_a_reminder_as_it_happens(api: Api) -> None:
    gid = await ask(api, reminders={"afterSeconds": 60, "everySeconds": 60, "max": 1})
    message = ok(await api.get(f"/v1/tasks/{gid}"))["messageGid"]
    following = asyncio.create_task(follow_kinds(api, message, until="task.reminded"))
    await asyncio.sleep(3 * CHECK_S)  # the stream waits, and its watcher knows how the message stands
    await be_reminded(api, gid)
    assert (await asyncio.wait_for(following, 15))[-2:] == ["task.opened", "task.reminded"]


async def be_reminded(api: Api, gid: str) -> None:
    await api.change_rows("UPDATE task SET remind_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=gid)
    await timers(api).check(await check_of(api, gid))


async def test_a_task_that_expired_and_was_asked_again(api: Api) -> None:
    gid = await ask(api)
    check = await be_due(api, gid)
    await timers(api).check(check)
    async with api.database.writing() as session:
        assert await open_round(session, check.delivery_gid, 1, OperatorAction("ann"))
        await ask_again(session, check.delivery_gid)
    await be_due(api, gid)
    await timers(api).check(check)
    message = ok(await api.get(f"/v1/tasks/{gid}"))["messageGid"]
    ended = ["task.opened", "task.expired", "delivery.dead_lettered"]
    listed = await events(api, message)
    kinds = [each["kind"] for each in listed]
    assert kinds == ["message.accepted", *ended, "delivery.replayed", *ended, "message.settled"]
    assert len({each["id"] for each in listed}) == len(listed)


async def test_a_paused_inbox_still_asks(api: Api) -> None:
    await api.channel()
    endpoint = await inbox(api)
    await api.change_rows("UPDATE circuit SET hold = 'paused' WHERE endpoint_gid = :gid", gid=endpoint)
    published = await api.publish({"n": 1})
    assert [each["status"] for each in published["deliveries"]] == ["awaiting_decision"]
    (task,) = ok(await api.get("/v1/tasks"))["data"]
    assert (await decide(api, task["taskGid"], APPROVE)).status_code == 200
