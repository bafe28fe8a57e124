"""The timers of tasks, and the events about tasks, on both databases."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, PullCheck, PulledState
from everhook.decisions.service import SubmittedDecision, TaskService
from everhook.decisions.timers import DUE_DATE, TaskTimers
from everhook.delivery.guards import GuardStarter
from everhook.delivery.inputs_store import InputDefaults
from everhook.errors import DomainError, Forbidden
from everhook.inbox.store import TaskFilter
from everhook.inbox.tasks import Person
from everhook.notifications.events import TASKS_CHANNEL
from everhook.publishing.publication import AcceptedDelivery
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.receipt import claims_of
from everhook.storage.engine import Database
from everhook.storage.tables import AuditEntry, Delivery, Endpoint, PendingHistory, Receipt, Task, TaskState, now
from everhook.storage.tenant_scope import TenantScope
from tests.stores.factories import ISSUER, KEYRING, Store, accepted, publication
from tests.stores.test_event_publisher import publish
from tests.stores.test_pull_queue import RETENTION, no_temporal

pytestmark = pytest.mark.usefixtures("background_tasks")

HOUR = timedelta(hours=1)
REMINDERS = {"afterSeconds": 3_600, "everySeconds": 7_200, "max": 2}
APPROVE = SubmittedDecision("approved", 1)


async def service_of(database: Database) -> TaskService:
    """What one process has. Temporal is away."""
    issuers, guards = IssuerCache(database, KEYRING, ISSUER), GuardStarter(await no_temporal(), database)
    no_gates: Any = None
    return TaskService(issuers, InputDefaults(), guards, no_gates, lambda _: None, no_gates)


async def check(database: Database, task: Task, give_up: DeadLetterReason | None = None) -> PulledState:
    """What the activity does when a timer fires."""
    timers = TaskTimers(database, await service_of(database))
    return await timers.check(PullCheck(task.delivery_gid, 1, RETENTION, give_up))


async def decide(database: Database, task: Task, name: str, submitted: SubmittedDecision = APPROVE) -> None:
    await (await service_of(database)).decide(TenantScope(database, None), Person(name), task.gid, submitted)


async def inbox(store: Store, tenant_gid: str | None = None, **options: Any) -> Endpoint:
    tenant = {} if tenant_gid is None else {"tenant_gid": tenant_gid}
    return await store.endpoint(**tenant, mode=DeliveryMode.INBOX, url="", options={"name": "Managers", **options})


async def ask(store: Store, to: Endpoint | None = None, **document: Any) -> Task:
    """A task that was published to an inbox; without one, to a new one."""
    if to is None:
        to = await store.subscribed(mode=DeliveryMode.INBOX, url="", options={"name": "Managers"})
    (message,) = await store.acceptor().accept_all([publication({"orderId": 1042}, task=document)])
    (delivery,) = accepted(message).deliveries
    return await task_of(store, delivery)


async def task_of(store: Store, delivery: AcceptedDelivery) -> Task:
    async with store.database.reading() as session:
        found = await session.execute(select(Task).where(col(Task.delivery_gid) == delivery.delivery_gid))
        return found.scalar_one()


async def read(store: Store, task: Task) -> tuple[Task, Delivery]:
    async with store.database.reading() as session:
        return await session.get_one(Task, task.gid), await session.get_one(Delivery, task.delivery_gid)


async def be_due(store: Store, task: Task, *names: str) -> None:
    """Let these times of a task be past."""
    async with store.database.writing() as session:
        past = dict.fromkeys(names, now() - timedelta(seconds=1))
        await session.execute(update(Task).where(col(Task.gid) == task.gid).values(past))


async def kinds(store: Store) -> Sequence[str]:
    return [event.kind for event in await store.events()]


async def test_a_workflow_is_started_after_the_commit_and_its_first_check_says_so(
    store: Store, database: Database
) -> None:
    await store.subscribed(mode=DeliveryMode.INBOX, url="", options={"name": "Managers"})
    [message] = await store.acceptor().accept_all([publication(task={"reminders": REMINDERS})])
    (new,) = accepted(message).new
    assert (new.input.mode, new.snapshot) == (DeliveryMode.INBOX, None)
    task = await task_of(store, accepted(message).deliveries[0])
    _, delivery = await read(store, task)
    assert delivery.dispatched_at is None
    assert delivery.due_at is not None and delivery.due_at < now() + timedelta(minutes=2)  # for the reconciler

    state = await check(database, task)
    assert (state.status, state.check_at) == (DeliveryStatus.AWAITING_DECISION, task.remind_at)
    _, delivery = await read(store, task)
    assert (delivery.due_at, delivery.dispatched_at is not None) == (task.remind_at, True)


@pytest.mark.both_databases
async def test_a_reminder_is_sent_once_when_its_timer_runs_several_times(
    store: Store, database: Database, other_database: Database
) -> None:
    task = await ask(store, reminders=REMINDERS)
    await be_due(store, task, "remind_at")
    states = await asyncio.gather(check(database, task), check(other_database, task), check(database, task))
    row, delivery = await read(store, task)
    assert (row.reminders_sent, row.version, [note["kind"] for note in row.notes]) == (1, 1, ["reminded"])
    assert await kinds(store) == ["task.opened", "task.reminded"]
    assert {state.check_at for state in states} == {row.remind_at} == {delivery.due_at}
    assert row.remind_at is not None and abs(row.remind_at - now() - 2 * HOUR) < timedelta(minutes=5)
    progress = states[0].task
    assert progress is not None and (progress.inbox, progress.reminders_sent, progress.reminders) == ("Managers", 1, 2)


@pytest.mark.both_databases
async def test_a_timer_next_to_a_decision_does_nothing(
    store: Store, database: Database, other_database: Database
) -> None:
    task = await ask(store, reminders=REMINDERS)
    await be_due(store, task, "remind_at", "due_at")
    results = await asyncio.gather(decide(database, task, "ann"), check(other_database, task), return_exceptions=True)
    row, delivery = await read(store, task)
    if isinstance(results[0], DomainError):  # the timer was first
        assert (row.state, delivery.status) == (TaskState.EXPIRED, DeliveryStatus.DEAD_LETTERED)
    else:
        assert (row.state, delivery.status) == (TaskState.DECIDED, DeliveryStatus.DELIVERED)
        assert isinstance(results[1], PulledState) and results[1].status is DeliveryStatus.DELIVERED
    again = await check(database, task)
    assert (again.status, again.task) == (delivery.status, None)
    assert len(await kinds(store)) == (2 if row.state is TaskState.DECIDED else 3)  # with delivery.dead_lettered


async def test_the_signal_to_the_workflow_is_owed_in_the_transaction_of_the_decision(store: Store) -> None:
    task = await ask(store)
    await decide(store.database, task, "ann")
    async with store.database.reading() as session:
        owed = await session.get_one(PendingHistory, task.delivery_gid)
    assert owed.signal


async def test_an_escalation_asks_another_person_and_the_first_one_may_still_decide(
    store: Store, database: Database
) -> None:
    escalation = {"afterReminders": 0, "to": "dan"}
    task = await ask(store, assignees=["ann"], reminders=REMINDERS, escalation=escalation)
    with pytest.raises(Forbidden):
        await decide(database, task, "dan")
    await be_due(store, task, "remind_at")
    for _ in range(2):
        await check(database, task)
    row, _ = await read(store, task)
    assert (row.assignees, row.version, row.reminders_sent) == (["ann", "dan"], 2, 0)
    assert await kinds(store) == ["task.opened", "task.escalated"]
    await decide(database, task, "ann", SubmittedDecision("approved", 2))
    assert (await read(store, task))[1].status is DeliveryStatus.DELIVERED


async def test_a_task_that_everyone_may_decide_stays_open_to_everyone(store: Store, database: Database) -> None:
    task = await ask(store, reminders=REMINDERS, escalation={"afterReminders": 0, "to": "dan"})
    await be_due(store, task, "remind_at")
    await check(database, task)
    assert (await read(store, task))[0].assignees == []
    await decide(database, task, "eve", SubmittedDecision("approved", 2))


@pytest.mark.both_databases
async def test_an_escalation_opens_the_task_in_another_inbox_of_the_tenant(store: Store, database: Database) -> None:
    other = await inbox(store, task={"assignees": ["group:board"]}, groups={"board": ["dan"]})
    foreign = await inbox(store, await store.tenant("acme"))
    for to, moved in ((other.gid, other.gid), (foreign.gid, None)):
        task = await ask_escalated(store, database, to)
        row, _ = await read(store, task)
        assert (row.escalated_to, row.assignees, row.escalated_at is not None) == (moved, ["ann"], True)
        (note,) = row.notes
        assert ("error" in note) is (moved is None)
    task = await ask_escalated(store, database, other.gid)
    found = await tasks_in(database, other)
    assert task.gid in found and len(found) == 2
    event = (await store.events())[-1]
    assert (event.data["to"], event.data["toPeople"]) == (other.gid, ["dan"])
    with pytest.raises(Forbidden):
        await decide(database, task, "eve", SubmittedDecision("approved", 2))
    await decide(database, task, "dan", SubmittedDecision("approved", 2))


async def ask_escalated(store: Store, database: Database, to: str) -> Task:
    endpoint = await store.endpoint(mode=DeliveryMode.INBOX, url="", options={"name": "Managers"})
    channel = await store.channel(f"c{endpoint.gid[-6:]}")
    await store.subscription(endpoint, channel)
    document = {"assignees": ["ann"], "reminders": REMINDERS, "escalation": {"afterReminders": 0, "to": to}}
    (message,) = await store.acceptor().accept_all([publication(channel=channel, task=document)])
    task = await task_of(store, accepted(message).deliveries[0])
    await be_due(store, task, "remind_at")
    await check(database, task)
    return task


async def tasks_in(database: Database, endpoint: Endpoint) -> list[str]:
    async with database.reading() as session:
        page = await (await service_of(database)).page(
            session, TaskFilter(endpoint_gid=endpoint.gid), after=None, limit=10
        )
    return [row.gid for row in page.rows]


@pytest.mark.both_databases
@pytest.mark.parametrize("name", ["ann", "José", 'Jo "the boss"', "back\\slash", "50%_/off", "李"])
async def test_tasks_are_found_by_an_assignee_with_any_name(store: Store, database: Database, name: str) -> None:
    task = await ask(store, assignees=["bo", name])
    for asked, found in ((name, [task.gid]), ("bo", [task.gid]), (name[:-1], [])):
        async with database.reading() as session:
            page = await (await service_of(database)).page(session, TaskFilter(assignee=asked), after=None, limit=10)
        assert [row.gid for row in page.rows] == found


async def test_an_escalation_at_the_due_date_gives_the_same_time_again_once(store: Store, database: Database) -> None:
    task = await ask(store, assignees=["ann"], dueSeconds=7_200, escalation={"afterReminders": 1, "to": "dan"})
    await be_due(store, task, "due_at")
    state = await check(database, task)
    row, delivery = await read(store, task)
    assert (state.status, state.check_at, delivery.due_at) == (delivery.status, row.due_at, row.due_at)
    assert abs(row.due_at - now() - 2 * HOUR) < timedelta(minutes=5)
    await be_due(store, task, "due_at")
    assert (await check(database, task)).reason is DeadLetterReason.EXPIRED
    assert await kinds(store) == ["task.opened", "task.escalated", "task.expired", "delivery.dead_lettered"]


@pytest.mark.both_databases
@pytest.mark.parametrize(
    ("task", "status", "outcome"),
    [
        ({"onDue": "pass"}, DeliveryStatus.DELIVERED, "approved"),
        ({"onDue": "decline"}, DeliveryStatus.DISCARDED, "rejected"),
        ({"onDue": "decline", "kind": "form"}, DeliveryStatus.DISCARDED, "declined"),
        (
            {"onDue": "pass", "outcomes": [{"name": "no", "effect": "decline", "comment": "optional"}]},
            DeliveryStatus.DEAD_LETTERED,
            None,
        ),
    ],
)
async def test_the_due_date_decides_with_a_receipt_and_an_audit_entry(
    store: Store, database: Database, task: dict[str, Any], status: DeliveryStatus, outcome: str | None
) -> None:
    asked = await ask(store, **task)
    await be_due(store, asked, "due_at")
    for _ in range(2):
        state = await check(database, asked)
        assert (state.status, state.outcome) == (status, outcome)
    row, _ = await read(store, asked)
    assert row.outcome == outcome
    async with database.reading() as session:
        receipts = (await session.execute(select(Receipt))).scalars().all()
        audited = (await session.execute(select(col(AuditEntry.actor), col(AuditEntry.action)))).all()
    if outcome is None:
        assert (row.state, receipts, audited) == (TaskState.EXPIRED, [], [])
        return
    assert (row.state, row.decided_by) == (TaskState.DECIDED, DUE_DATE)
    decision = (claims_of(receipts[0].jws) or {})["decision"]
    assert (decision["decidedBy"], decision["identifiedBy"], decision["outcome"]) == (DUE_DATE, "timer", outcome)
    assert (len(receipts), [tuple(entry) for entry in audited]) == (1, [(DUE_DATE, "task.decided")])
    assert await kinds(store) == ["task.opened", "task.decided"]


async def test_a_task_that_was_replayed_since_its_inbox_was_given_up_stays_open(
    store: Store, database: Database
) -> None:
    """Temporal repeats a check whose response was lost."""
    task = await ask(store)
    async with store.database.writing() as session:
        await session.execute(update(Delivery).where(col(Delivery.gid) == task.delivery_gid).values(round=2))
    state = await check(database, task, DeadLetterReason.ENDPOINT_DISABLED)
    assert (state.status, (await read(store, task))[0].state) == (DeliveryStatus.AWAITING_DECISION, TaskState.OPEN)


async def test_an_inbox_that_is_given_up_gives_up_its_tasks(store: Store, database: Database) -> None:
    task = await ask(store)
    state = await check(database, task, DeadLetterReason.ENDPOINT_DISABLED)
    assert (state.status, state.reason) == (DeliveryStatus.DEAD_LETTERED, DeadLetterReason.ENDPOINT_DISABLED)
    assert (await store.events())[1].data["reason"] == "endpoint_disabled"


async def test_events_of_tasks_go_to_their_tenant_and_to_operators(store: Store, database: Database) -> None:
    acme, other = await store.tenant("acme"), await store.tenant("other")
    subscribers = {}
    for tenant_gid in (acme, other, None):
        endpoint = await store.endpoint(**({"tenant_gid": tenant_gid} if tenant_gid else {}))
        await store.subscription(endpoint, TASKS_CHANNEL)
        subscribers[tenant_gid] = endpoint.gid
    to = await store.subscribed(acme, mode=DeliveryMode.INBOX, url="", options={"name": "Managers"})
    await ask(store, to, title="Approve order 1042?", assignees=["ann"])
    assert (await publish(store)).events == 1
    assert (await publish(store)).events == 0
    async with database.reading() as session:
        rows = (await session.execute(select(Delivery).where(col(Delivery.channel) == TASKS_CHANNEL))).scalars().all()
    assert {row.endpoint_gid for row in rows} == {subscribers[acme], subscribers[None]}
    assert {row.event_type for row in rows} == {"task.opened"}
    data = (await store.events())[0].data
    assert (data["title"], data["people"], data["inbox"]) == ("Approve order 1042?", ["ann"], to.gid)
    assert "orderId" not in str(data)


async def test_an_inbox_of_events_of_tasks_causes_none(store: Store, database: Database) -> None:
    collector = await inbox(store)
    await store.subscription(collector, TASKS_CHANNEL)
    task = await ask(store)
    await publish(store)
    (about,) = await tasks_in(database, collector)
    assert about != task.gid
    assert await kinds(store) == ["task.opened"]
    assert (await publish(store)).events == 0
