"""Reminders and escalations: when they are sent, once each, and what is looked up as whom."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from everhook.circuit.machine import Hold
from everhook.contracts import DeliveryMode, DeliveryStatus, FailureCode, HandlerResult, Verdict
from everhook.ids import Kind, new_gid, new_gid_at
from everhook.internal import service
from everhook.storage.tables import DEFAULT_TENANT_GID, Delivery, Endpoint, Message, Task, TaskState, now
from tests.activities.desk import order_for
from tests.internal.conftest import RETENTION, Office
from tests.stores.factories import CHANNEL

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


class Clock:
    """The clock of the handlers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moment: datetime | None = None
        monkeypatch.setattr(service, "now", lambda: self.moment or now())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def messages(office: Office, event_type: str) -> list[Message]:
    async with office.store.database.reading() as session:
        found = await session.execute(
            select(Message).where(col(Message.event_type) == event_type).order_by(col(Message.gid))
        )
        return list(found.scalars())


async def open_message(office: Office, tenant_gid: str = DEFAULT_TENANT_GID) -> Delivery:
    """A message whose delivery is in progress."""
    endpoint = await office.store.endpoint(tenant_gid)
    return await office.store.delivery(endpoint, status=DeliveryStatus.RETRYING)


async def settle(office: Office, delivery: Delivery, status: DeliveryStatus = DeliveryStatus.DELIVERED) -> None:
    async with office.store.database.writing() as session:
        row = await session.get_one(Delivery, delivery.gid)
        row.status = status
        row.completed_at = now()


async def reminded(office: Office, **payload: Any) -> tuple[Delivery, Delivery, Endpoint]:
    """A reminder, the delivery that it watches, and the endpoint that it notifies."""
    watched, notify = await open_message(office), await office.store.endpoint()
    content = {"afterSeconds": 60, "until": watched.message_gid, "notify": notify.gid} | payload
    return await office.delivery(await office.endpoint(kind="reminder"), content), watched, notify


async def test_reminders_are_sent_at_their_times_and_the_last_one_delivers(office: Office, clock: Clock) -> None:
    delivery, watched, notify = await reminded(office, everySeconds=60, max=3)
    start = delivery.accepted_at
    assert await office.desk.handle(delivery) == HandlerResult(due_at=start + 60 * SECOND, step=0)
    waiting = await office.store.read(delivery)
    assert (waiting.status, waiting.due_at) == (DeliveryStatus.SENDING, start + 60 * SECOND)
    assert waiting.dispatched_at is not None and await messages(office, "reminder") == []

    clock.moment = start + 60 * SECOND
    assert await office.desk.handle(delivery) == HandlerResult(due_at=start + 120 * SECOND, step=1)
    assert await office.desk.handle(delivery) == HandlerResult(due_at=start + 120 * SECOND, step=1)  # made twice
    assert await office.desk.handle(delivery, step=1) == HandlerResult(due_at=start + 120 * SECOND, step=1)
    clock.moment = start + 120 * SECOND
    assert (await office.desk.handle(delivery, step=1)).step == 2
    clock.moment = start + 180 * SECOND
    result = await office.desk.handle(delivery, step=2)
    assert result.outcome is not None and result.outcome.verdict is Verdict.DELIVERED
    assert (await office.desk.handle(delivery, step=2)).outcome == result.outcome

    sent = await messages(office, "reminder")
    assert [message.idempotency_key for message in sent] == [f"{delivery.gid}/reminder/{n}" for n in (1, 2, 3)]
    assert {(message.channel, message.tenant_gid) for message in sent} == {(CHANNEL, DEFAULT_TENANT_GID)}
    assert f'"number":2,"max":3,"until":"{watched.message_gid}"'.encode() in (sent[1].payload or b"")
    assert [new.input.endpoint_gid for new in office.dispatched] == [notify.gid] * 3
    attempt = await office.desk.attempt(delivery)
    assert (attempt.url, attempt.response_body) == (
        "everhook:reminder", f"reminder 3 of 3 sent to {notify.gid}".encode()
    )  # fmt: skip
    assert (await office.store.read(delivery)).status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED, DeliveryStatus.DEAD_LETTERED])
async def test_a_settled_message_needs_no_reminder(office: Office, clock: Clock, status: DeliveryStatus) -> None:
    delivery, watched, _ = await reminded(office, everySeconds=60, max=3)
    clock.moment = delivery.accepted_at + 60 * SECOND
    await office.desk.handle(delivery)
    await settle(office, watched, status)
    clock.moment += 60 * SECOND
    result = await office.desk.handle(delivery, step=1)
    assert result.outcome is not None and result.outcome.verdict is Verdict.DELIVERED
    assert len(await messages(office, "reminder")) == 1
    assert b"no reminder is needed" in ((await office.desk.attempt(delivery)).response_body or b"")


async def test_a_task_that_is_decided_needs_no_reminder(office: Office, clock: Clock) -> None:
    inbox = await office.store.endpoint(mode=DeliveryMode.INBOX, options={"name": "Managers"}, url="")
    asked = await office.delivery(inbox, {"a": 1})
    async with office.store.database.reading() as session:
        task = (await session.execute(select(Task).where(col(Task.delivery_gid) == asked.gid))).scalar_one()
    delivery, _, _ = await reminded(office, until=task.gid, everySeconds=60, max=2)
    clock.moment = delivery.accepted_at + 60 * SECOND
    assert (await office.desk.handle(delivery)).step == 1
    async with office.store.database.writing() as session:
        (await session.get_one(Task, task.gid)).state = TaskState.DECIDED
    result = await office.desk.handle(delivery, step=1)
    assert result.outcome is not None and result.outcome.verdict is Verdict.DELIVERED
    assert len(await messages(office, "reminder")) == 1


@pytest.mark.parametrize("kind", [Kind.MESSAGE, Kind.TASK])
async def test_what_retention_may_have_deleted_needs_no_reminder(office: Office, clock: Clock, kind: Kind) -> None:
    for age, verdict in ((RETENTION + HOUR, Verdict.DELIVERED), (RETENTION - HOUR, Verdict.REJECTED)):
        delivery, _, _ = await reminded(office, until=new_gid_at(kind, now() - age))
        result = await office.desk.handle(delivery)
        assert result.outcome is not None and result.outcome.verdict is verdict
    assert await messages(office, "reminder") == []


async def test_an_attempt_that_is_not_due_is_made_later(office: Office) -> None:
    """The clock was set back between two looks at it."""
    delivery, _, _ = await reminded(office)
    outcome = await office.desk.sender.attempt(order_for(delivery))
    assert (outcome.verdict, outcome.error) == (Verdict.RETRY, FailureCode.UNSENDABLE)
    assert await messages(office, "reminder") == []


async def test_one_of_several_missed_reminders_is_sent(office: Office, clock: Clock) -> None:
    delivery, _, _ = await reminded(office, everySeconds=60, max=5)
    clock.moment = delivery.accepted_at + 200 * SECOND
    assert (await office.desk.handle(delivery)).step == 3
    assert [message.idempotency_key for message in await messages(office, "reminder")] == [f"{delivery.gid}/reminder/3"]


async def test_reminders_and_escalations_cannot_name_resources_of_other_tenants(office: Office) -> None:
    other = await office.store.tenant("other")
    foreign, notify = await open_message(office, other), await office.store.endpoint(other)
    mine, endpoint = await open_message(office), await office.store.endpoint()
    reminder, escalation = await office.endpoint(kind="reminder"), await office.endpoint(kind="escalation")
    then = {"channel": CHANNEL, "type": "late", "payload": 1}
    for handler, content, reason in (
        (reminder, {"until": foreign.message_gid, "notify": endpoint.gid}, "until: there is no such message or task"),
        (reminder, {"until": new_gid(Kind.TASK), "notify": endpoint.gid}, "until: there is no such message or task"),
        (reminder, {"until": mine.message_gid, "notify": notify.gid}, "notify: there is no such endpoint"),
        (reminder, {"until": mine.message_gid, "notify": reminder.gid}, "notify: is the endpoint of this reminder"),
        (escalation, {"watch": foreign.message_gid, "unless": "delivered", "then": then}, "watch: there is no such"),
        (escalation, {"watch": mine.message_gid, "unless": "delivered", "then": then | {"channel": "none"}}, "then.ch"),
        (
            escalation,
            {"watch": mine.message_gid, "unless": "delivered", "then": then | {"channel": "everhook.events"}},
            "then.channel: only Everhook itself",
        ),
        (reminder, {"note": "what is this"}, "the payload: has a member"),
    ):
        for after in ({"afterSeconds": 0}, {"afterSeconds": 60}):  # refused at once, not when it is due
            attempt = await office.handled(handler, content | after)
            assert (attempt.verdict, attempt.error) == (Verdict.REJECTED, FailureCode.INVALID_PAYLOAD)
            assert (attempt.error_detail or "").startswith(reason), attempt.error_detail
    assert office.dispatched == []
    assert await messages(office, "late") == []


async def escalated(office: Office, tenant_gid: str = DEFAULT_TENANT_GID) -> tuple[Delivery, Delivery]:
    """An escalation after a minute, and the delivery that it watches."""
    watched = await open_message(office, tenant_gid)
    then = {"channel": CHANNEL, "type": "order.late", "payload": {"n": 12345678901234567890123}}
    content = {"watch": watched.message_gid, "unless": "delivered", "afterSeconds": 60, "then": then}
    return await office.delivery(await office.endpoint(tenant_gid, kind="escalation"), content), watched


async def test_an_escalation_publishes_once_to_its_tenant_unless_it_is_delivered(office: Office, clock: Clock) -> None:
    tenant = await office.store.tenant("acme")
    mine = await office.store.subscribed(tenant)
    other = await office.store.endpoint()
    await office.store.subscription(other)
    delivery, _ = await escalated(office, tenant)
    assert (await office.desk.handle(delivery)).due_at == delivery.accepted_at + 60 * SECOND
    clock.moment = delivery.accepted_at + 60 * SECOND
    result = await office.desk.handle(delivery)
    assert result.outcome is not None and result.outcome.verdict is Verdict.DELIVERED
    (message,) = await messages(office, "order.late")
    assert (message.payload, message.tenant_gid) == (b'{"n":12345678901234567890123}', tenant)
    assert message.idempotency_key == f"{delivery.gid}/escalation"
    assert [new.input.endpoint_gid for new in office.dispatched] == [mine.gid]
    again, _ = await escalated(office, tenant)
    assert again.gid != delivery.gid

    twice = await office.desk.handle(delivery, 2)  # its record was lost
    assert twice.outcome is not None and len(await messages(office, "order.late")) == 1


async def test_a_delivered_message_is_not_escalated(office: Office, clock: Clock) -> None:
    await office.store.channel()
    delivery, watched = await escalated(office)
    await settle(office, watched)
    clock.moment = delivery.accepted_at + 60 * SECOND
    result = await office.desk.handle(delivery)
    assert result.outcome is not None and result.outcome.verdict is Verdict.DELIVERED
    assert await messages(office, "order.late") == []


async def test_a_dead_letter_is_escalated(office: Office, clock: Clock) -> None:
    await office.store.channel()
    delivery, watched = await escalated(office)
    await settle(office, watched, DeliveryStatus.DEAD_LETTERED)
    clock.moment = delivery.accepted_at + 60 * SECOND
    await office.desk.handle(delivery)
    assert len(await messages(office, "order.late")) == 1


async def test_a_paused_endpoint_parks_its_reminders(office: Office, clock: Clock) -> None:
    delivery, _, _ = await reminded(office)
    async with office.store.database.reading() as session:
        endpoint = await session.get_one(Endpoint, delivery.endpoint_gid)
    await office.store.circuit(endpoint, hold=Hold.PAUSED)
    clock.moment = delivery.accepted_at + 60 * SECOND
    result = await office.desk.handle(delivery)
    assert result.outcome is not None and result.outcome.verdict is Verdict.PARKED
    assert (await office.store.read(delivery)).status is DeliveryStatus.PARKED
    await office.store.circuit(endpoint, hold=None)
    clock.moment = delivery.accepted_at
    await office.desk.handle(delivery)
    row = await office.store.read(delivery)
    assert (row.status, row.parked_at) == (DeliveryStatus.SENDING, None)
