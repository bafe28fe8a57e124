"""Intents and their workflows: a real Temporal, real workers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from temporalio.client import WorkflowExecutionStatus

from everhook.audit.store import Actor
from everhook.axme.intents import Intent, IntentStatus
from everhook.axme.service import IntentViewer, NewIntent
from everhook.storage.tenant_scope import TenantScope
from testing.api import ok
from testing.waiting import assert_eventually
from tests.api.live.conftest import ON_STACK, Live
from tests.api.live.test_pulling import run_of
from tests.api.test_pulling import acks, poll

pytestmark = ON_STACK

ACTOR = Actor("alice")


def scope(live: Live) -> TenantScope:
    return live.api.services.scope_of(None)


async def sent(live: Live, deadline_at: datetime | None = None, **more: Any) -> Intent:
    new = NewIntent(
        "order.fulfillment.v1",
        str(uuid4()),
        f"agent://default/live/{live.name}",
        b"{}",
        deadline_at=deadline_at,
    )
    new = replace(new, **more)
    return await live.api.services.intents.send(scope(live), ACTOR, new, creates_tenants=False)


async def test_a_failed_intent_becomes_a_dead_letter(live: Live) -> None:
    intent = await sent(live)
    settled = await live.api.services.intents.fail(scope(live), ACTOR, intent, "no stock")
    delivery = intent.history.delivery.gid
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert shown["deadLetterReason"] == "rejected"
    found = await live.api.services.intents.find(scope(live), IntentViewer(), intent.id)
    assert found.events() == settled.intent.events()
    assert (await live.api.post(f"/v1/dead-letters/{delivery}/replay")).status_code == 202
    await live.wait_for_status(delivery, "available")
    found = await live.api.services.intents.find(scope(live), IntentViewer(), intent.id)
    assert [event.status for event in found.events()[-2:]] == [IntentStatus.FAILED, IntentStatus.DELIVERED]
    await live.api.services.intents.complete(scope(live), ACTOR, found, b"{}")
    await run_of(live, delivery, WorkflowExecutionStatus.COMPLETED)


async def test_the_workflow_of_a_canceled_intent_ends(live: Live) -> None:
    intent = await sent(live)
    (item,) = await poll(live.api, intent.endpoint_gid)
    await acks(live.api, intent.endpoint_gid, nacks=[{"lease": item["lease"]}])
    delivery = intent.history.delivery.gid
    await run_of(live, delivery, WorkflowExecutionStatus.RUNNING)
    await live.api.services.intents.cancel(scope(live), ACTOR, intent, "not needed")
    await run_of(live, delivery, WorkflowExecutionStatus.COMPLETED)
    await live.wait_for_status(delivery, "discarded")


async def test_the_workflow_of_a_canceled_task_ends(live: Live) -> None:
    intent = await sent(live, task={"title": "?"})
    delivery = intent.history.delivery.gid

    async def waits_for_a_person() -> None:
        (row,) = await live.api.rows(
            "SELECT delivery.due_at AS next_at, task.due_at FROM delivery JOIN task ON delivery_gid = delivery.gid "
            "WHERE delivery.gid = :gid",
            gid=delivery,
        )
        assert row.next_at == row.due_at

    await assert_eventually(waits_for_a_person)
    await live.api.services.intents.cancel(scope(live), ACTOR, intent, "not needed")
    await run_of(live, delivery, WorkflowExecutionStatus.COMPLETED)
    await live.wait_for_status(delivery, "discarded")


async def test_a_reply_to_people_opens_a_task_with_a_workflow(live: Live) -> None:
    people = f"agent://default/live/{live.name}-people"
    await sent(live, to_agent=people, task={"title": "?"})
    intent = await sent(live, reply_to=people)
    settled = await live.api.services.intents.complete(scope(live), ACTOR, intent, b"{}")
    (delivery,) = ok(await live.api.get("/v1/deliveries", messageGid=settled.reply_gid))["data"]
    await run_of(live, delivery["deliveryGid"], WorkflowExecutionStatus.RUNNING)


async def test_an_intent_that_is_not_taken_until_its_deadline_is_an_unclaimed_dead_letter(live: Live) -> None:
    intent = await sent(live, datetime.now(UTC) + timedelta(seconds=2))
    delivery = intent.history.delivery.gid
    await live.api.change_rows("UPDATE pull_queue SET queued_at = :past", past="2026-01-01 00:00:00.000000")
    shown = await live.wait_for_status(delivery, "dead_lettered")
    assert shown["deadLetterReason"] == "unclaimed"
    found = await live.api.services.intents.find(scope(live), IntentViewer(), intent.id)
    assert found.latest.status is IntentStatus.TIMED_OUT
