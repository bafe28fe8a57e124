"""The workflow of a delivery to an inbox asks here: reminders, escalation and due date of its task.

A timer asks the row first, in the transaction that writes what it does: next to a decision it does nothing, and an
activity that runs twice sends one reminder, because the first run has set the time of the next one.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from everhook.audit.store import Actor, record_audit
from everhook.contracts import (
    TERMINAL_STATUSES,
    DeadLetterReason,
    DeliveryStatus,
    PullCheck,
    PulledState,
    TaskProgress,
)
from everhook.decisions.service import SubmittedDecision, TaskService
from everhook.delivery.sender import delivery_missing
from everhook.delivery.store import dead_letter
from everhook.inbox import store as tasks
from everhook.inbox.deadlines_store import set_schedule, wait_until
from everhook.inbox.schedule import Schedule, Step
from everhook.inbox.store import TaskRow, record_task_event
from everhook.inbox.tasks import Person, defaults_of, groups_of, is_inbox, outcome_on_due, people_of
from everhook.notifications.events import EventKind
from everhook.publishing.gate_progress_store import UPKEEP, Ending, Released, decline_step
from everhook.pulling.queue_store import pulled_delivery
from everhook.pulling.service import pulled_state
from everhook.receipts.issuer import Issuer
from everhook.receipts.strict_json import format_time
from everhook.storage.engine import Database, Session, once_more_if_outdated
from everhook.storage.tables import Task, TaskState, now

DUE_DATE = "the due date"
"""Who decided, if no person did."""

ESCALATION = "escalation"
IN_TIME = "no one decided in time"
CANNOT_BE_REPLAYED = (DeadLetterReason.ENDPOINT_DELETED, DeadLetterReason.PAYLOAD_ERASED)
"""No replay asks again, so the gate that the task is a step of ends."""

MAX_TIMER_NOTES = 500

log = structlog.get_logger()


class TaskTimers:
    """Takes the step of a task that is due. One for each process."""

    def __init__(self, database: Database, service: TaskService) -> None:
        self._database = database
        self._service = service

    async def check(self, check: PullCheck) -> PulledState:
        """Find out, for its workflow, what became of a delivery to an inbox. If a step of its task is due, take it:
        remind, escalate, or end it. One transaction; running this twice does no more than running it once."""
        issuer = await self._service.issuers.get()
        state, released = await once_more_if_outdated(lambda: self._check(check, issuer))
        self._service.start(released)
        return state

    async def _check(self, check: PullCheck, issuer: Issuer) -> tuple[PulledState, Released | None]:
        """Returns also what a gate released."""
        released: Released | None = None
        async with self._database.writing() as session:
            row = await tasks.find_of_delivery(session, check.delivery_gid)
            progress: TaskProgress | None = None
            next_at: datetime | None = None
            if row is not None and _is_open(row):
                next_at, released = await self._take_step(session, row, check, now(), issuer)
                progress = _progress(row) if next_at is not None else None
            await session.flush()
            delivery = await pulled_delivery(session, check.delivery_gid)
            if delivery is None:
                raise delivery_missing(check.delivery_gid)
            outcome = None
            if delivery.status in TERMINAL_STATUSES:
                outcome = await tasks.outcome_of_delivery(session, check.delivery_gid)
            return replace(pulled_state(delivery), check_at=next_at, task=progress, outcome=outcome), released

    async def _take_step(
        self, session: Session, row: TaskRow, check: PullCheck, moment: datetime, issuer: Issuer
    ) -> tuple[datetime | None, Released | None]:
        """Returns when the next step is due, or None if the task is over; and what a gate released."""
        schedule = schedule_of(row.task)
        step = schedule.step(moment)
        if (reason := check.gives_up(row.delivery.round) or _why_lost(row)) is not None:
            await _expire(session, row, check, reason, moment)
            return None, None
        if step is Step.END:
            return None, await self._end(session, row, check, moment, issuer)
        if step is Step.REMIND:
            schedule = schedule.reminded(moment)
            _remind(session, row, schedule)
        elif step is Step.ESCALATE:
            schedule = schedule.escalated(moment)
            await _escalate(session, row, schedule, moment)
        await wait_until(session, check.delivery_gid, schedule.next_at)
        return schedule.next_at, None

    async def _end(
        self, session: Session, row: TaskRow, check: PullCheck, moment: datetime, issuer: Issuer
    ) -> Released | None:
        """No one decided in time: the task expires, unless it says that its due date decides."""
        outcome = outcome_on_due(row.task.document)
        if outcome is None:
            # Either the deletion of the inbox finds this dead letter and ends its gate, or this finds the deletion.
            await tasks.lock_inbox(session, row)
            await _expire(session, row, check, _why_lost(row) or DeadLetterReason.EXPIRED, moment)
            return None
        task, person = row.task, Person(DUE_DATE, identified_by="timer")
        detail = {"outcome": outcome.name, "identifiedBy": person.identified_by, "isFinal": True}
        record_audit(session, Actor(person.name), "task.decided", task.gid, tenant_gid=task.tenant_gid, detail=detail)
        submitted = SubmittedDecision(outcome.name, task.version, IN_TIME)
        return await self._service.conclude(session, row, person, submitted, outcome, moment, issuer)


def schedule_of(task: Task) -> Schedule:
    """Where an open task stands."""
    return Schedule(
        task.document, task.due_at, task.remind_at, task.reminders_sent, is_escalated=task.escalated_at is not None
    )


def _is_open(row: TaskRow) -> bool:
    return row.task.state is TaskState.OPEN and row.delivery.status is DeliveryStatus.AWAITING_DECISION


def _why_lost(row: TaskRow) -> DeadLetterReason | None:
    """Why no one can decide any more."""
    if row.inbox.deleted_at is not None:
        return DeadLetterReason.ENDPOINT_DELETED
    return DeadLetterReason.PAYLOAD_ERASED if row.message.payload is None else None


def _remind(session: Session, row: TaskRow, schedule: Schedule) -> None:
    set_schedule(row.task, schedule)
    _note(row.task, {"kind": "reminded", "number": schedule.reminders_sent})
    session.add(row.task)
    number = {"reminder": schedule.reminders_sent, "reminders": schedule.reminders}
    record_task_event(session, EventKind.TASK_REMINDED, row, **number)


async def _escalate(session: Session, row: TaskRow, schedule: Schedule, moment: datetime) -> None:
    """Ask others as well: those of another inbox, or a person or a group of this one. The first ones may still decide.
    A task that everyone may decide stays so."""
    task, to = row.task, str(row.task.document["escalation"]["to"])
    set_schedule(task, schedule)
    task.escalated_at = moment
    note: dict[str, Any] = {"kind": "escalated", "to": to}
    options, assignees = row.inbox.options, [to]
    if is_inbox(to):
        other = await tasks.inbox_of(session, to, task.tenant_gid)
        if other is None:
            log.warning("a task is escalated to an inbox that does not exist", task_gid=task.gid, to=to)
            note["error"] = "there is no such inbox"
        task.escalated_to = other.gid if other is not None else None
        options = other.options if other is not None else {}
        assignees = defaults_of(options).get("assignees", [])
    elif task.assignees and to not in task.assignees:
        task.assignees = [*task.assignees, to]
    task.version += 1
    _note(task, note)
    session.add(task)
    record_audit(session, Actor(ESCALATION), "task.escalated", task.gid, tenant_gid=task.tenant_gid, detail={"to": to})
    record_task_event(session, EventKind.TASK_ESCALATED, row, to=to, toPeople=people_of(assignees, groups_of(options)))


async def _expire(session: Session, row: TaskRow, check: PullCheck, reason: DeadLetterReason, moment: datetime) -> None:
    row.task.state = TaskState.EXPIRED
    row.task.version += 1
    session.add(row.task)
    record_task_event(session, EventKind.TASK_EXPIRED, row, reason=reason.value)
    await session.flush()
    await dead_letter(session, check.delivery_gid, row.delivery.round, reason, moment + check.retention)
    if reason in CANNOT_BE_REPLAYED:
        await decline_step(session, check.delivery_gid, Ending(reason, UPKEEP, f"{row.task.gid} cannot be decided"))


def _note(task: Task, note: dict[str, Any]) -> None:
    if len(task.notes) < MAX_TIMER_NOTES:
        task.notes = [*task.notes, {**note, "at": format_time(now())}]


def _progress(row: TaskRow) -> TaskProgress:
    schedule = schedule_of(row.task)
    return TaskProgress(
        row.inbox.options.get("name", ""),
        len(row.task.assignees),
        row.task.due_at,
        schedule.reminders_sent,
        schedule.reminders,
        schedule.is_escalated,
    )
