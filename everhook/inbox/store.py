"""Tasks in the database. Rows are locked in this order: task, then delivery."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus
from everhook.inbox.events import task_event
from everhook.notifications.events import EventKind
from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.statements import table_of
from everhook.storage.tables import (
    Delivery,
    Endpoint,
    Message,
    OperationalEvent,
    Receipt,
    Task,
    TaskDecision,
    TaskState,
    now,
)

IS_OPEN = col(Task.state) == literal(TaskState.OPEN, type_=table_of(Task).c.state.type, literal_execute=True)
"""The state as a literal in the statement: the planner uses a partial index only if it sees the value."""


@dataclass(frozen=True)
class TaskFilter:
    """Several values of a field mean any of them. `endpoint_gid`: also the inbox that it was escalated to. `assignee`
    is named among the assignees. `overdue`: open, and past its due date. `inboxes` are those that the caller may see;
    None: all of the tenant's."""

    state: TaskState | tuple[TaskState, ...] | None = None
    endpoint_gid: str | tuple[str, ...] | None = None
    assignee: str | None = None
    overdue: bool = False
    inboxes: frozenset[str] | None = None


async def page(session: AsyncSession, chosen: TaskFilter, *, after: str | None, limit: int) -> Page[Task]:
    """One page, newest first."""
    statement = select(Task).where(*one_of(col(Task.state), chosen.state), *_within(chosen.inboxes))
    if chosen.endpoint_gid is not None:
        statement = statement.where(
            or_(
                *one_of(col(Task.endpoint_gid), chosen.endpoint_gid),
                *one_of(col(Task.escalated_to), chosen.endpoint_gid),
            )
        )
    if chosen.assignee is not None:
        written = json.dumps(chosen.assignee)  # with the escapes of the column
        statement = statement.where(cast(col(Task.assignees), String).contains(written, autoescape=True))
    if chosen.overdue:
        statement = statement.where(col(Task.state) == TaskState.OPEN, col(Task.due_at) <= now())
    return await page_of(session, statement, col(Task.gid), after=after, limit=limit)


@dataclass(frozen=True)
class TaskRow:
    """A task with its delivery, its message, its inbox, and the inbox that it was escalated to, if it still exists."""

    task: Task
    delivery: Delivery
    message: Message
    inbox: Endpoint
    escalated_to: Endpoint | None = None

    @property
    def inboxes(self) -> Sequence[Endpoint]:
        """Those that ask: its own comes first."""
        return [self.inbox] if self.escalated_to is None else [self.inbox, self.escalated_to]


async def find(session: AsyncSession, gid: str, *, for_change: bool = False) -> TaskRow | None:
    """With `for_change` the task is locked until the transaction ends."""
    return await _find(session, col(Task.gid) == gid, for_change=for_change)


async def find_of_delivery(session: AsyncSession, delivery_gid: str) -> TaskRow | None:
    """The task of a delivery, locked until the transaction ends."""
    return await _find(session, col(Task.delivery_gid) == delivery_gid, for_change=True)


async def _find(session: AsyncSession, which: ColumnElement[bool], *, for_change: bool) -> TaskRow | None:
    if for_change:
        await session.execute(select(col(Task.gid)).where(which).with_for_update())
    other = aliased(Endpoint)
    found = await session.execute(
        select(Task, Delivery, Message, Endpoint, other)
        .join(Delivery, col(Delivery.gid) == col(Task.delivery_gid))
        .join(Message, col(Message.gid) == col(Task.message_gid))
        .join(Endpoint, col(Endpoint.gid) == col(Task.endpoint_gid))
        .outerjoin(other, and_(col(other.gid) == col(Task.escalated_to), col(other.deleted_at).is_(None)))
        .where(which)
    )
    row = found.one_or_none()
    return TaskRow(*row) if row is not None else None


async def lock_inbox(session: AsyncSession, row: TaskRow) -> None:
    """Read the inbox of a task again. It cannot be deleted until the transaction ends."""
    await session.refresh(row.inbox, with_for_update={"read": True})


async def open_deliveries(session: AsyncSession, endpoint_gid: str) -> Sequence[str]:
    """The deliveries of an inbox whose tasks are open."""
    rows = await session.execute(
        select(col(Task.delivery_gid)).where(col(Task.endpoint_gid) == endpoint_gid, col(Task.state) == TaskState.OPEN)
    )
    return rows.scalars().all()


async def task_of_delivery(session: AsyncSession, delivery_gid: str) -> str | None:
    """The gid of the task of a delivery. None if it went to no inbox."""
    found = await session.execute(select(col(Task.gid)).where(col(Task.delivery_gid) == delivery_gid))
    return found.scalar_one_or_none()


async def outcome_of_delivery(session: AsyncSession, delivery_gid: str) -> str | None:
    """What was decided about a delivery. None if nothing was, or if it expired."""
    found = await session.execute(select(col(Task.outcome)).where(col(Task.delivery_gid) == delivery_gid))
    return found.scalar_one_or_none()


async def open_of(connection: AsyncConnection, endpoint_gid: str, limit: int) -> Sequence[str]:
    """The deliveries of an inbox that wait for a decision, the oldest first."""
    found = await connection.execute(
        select(col(Task.delivery_gid))
        .where(col(Task.endpoint_gid) == endpoint_gid, IS_OPEN)
        .order_by(col(Task.gid))
        .limit(limit)
    )
    return found.scalars().all()


async def inbox_of(session: AsyncSession, gid: str, tenant_gid: str) -> Endpoint | None:
    """An inbox of a tenant. None if there is no such inbox, or none any more."""
    found = await session.execute(
        select(Endpoint).where(
            col(Endpoint.gid) == gid,
            col(Endpoint.tenant_gid) == tenant_gid,
            col(Endpoint.mode) == DeliveryMode.INBOX,
            col(Endpoint.deleted_at).is_(None),
        )
    )
    return found.scalar_one_or_none()


def record_task_event(session: AsyncSession, kind: EventKind, row: TaskRow, **more: Any) -> None:
    """Record an event of a task, in the transaction of the change. See `task_event`."""
    delivery = row.delivery
    event = task_event(
        kind, row.task, channel=delivery.channel, event_type=delivery.event_type, options=row.inbox.options, **more
    )
    if event is not None:
        session.add(OperationalEvent(**event))


async def decisions(session: AsyncSession, task_gid: str) -> Sequence[TaskDecision]:
    """The decisions of single people, oldest first."""
    rows = await session.execute(
        select(TaskDecision)
        .where(col(TaskDecision.task_gid) == task_gid)
        .order_by(col(TaskDecision.decided_at), col(TaskDecision.actor))
    )
    return rows.scalars().all()


async def chain(session: AsyncSession, message_gid: str, inboxes: frozenset[str] | None) -> Sequence[Task]:
    """All tasks of a message in these inboxes, in the order in which they were opened."""
    rows = await session.execute(
        select(Task).where(col(Task.message_gid) == message_gid, *_within(inboxes)).order_by(col(Task.gid))
    )
    return rows.scalars().all()


def _within(inboxes: frozenset[str] | None) -> list[ColumnElement[bool]]:
    """Tasks in one of these inboxes, or escalated to one of them."""
    if inboxes is None:
        return []
    return [or_(col(Task.endpoint_gid).in_(inboxes), col(Task.escalated_to).in_(inboxes))]


async def open_by_due_date(
    session: AsyncSession, inboxes: frozenset[str] | None, endpoint_gid: str | None, *, limit: int
) -> Sequence[tuple[Task, Sequence[Endpoint]]]:
    """Open tasks with the inboxes that ask, the earliest due date first. `endpoint_gid`: one inbox alone."""
    chosen = _within(frozenset({endpoint_gid})) if endpoint_gid is not None else []
    other = aliased(Endpoint)
    rows = await session.execute(
        select(Task, Endpoint, other)
        .join(Endpoint, col(Endpoint.gid) == col(Task.endpoint_gid))
        .outerjoin(other, and_(col(other.gid) == col(Task.escalated_to), col(other.deleted_at).is_(None)))
        .where(col(Task.state) == TaskState.OPEN, *_within(inboxes), *chosen)
        .order_by(col(Task.due_at))
        .limit(limit)
    )
    return [(task, [each for each in asking if each is not None]) for task, *asking in rows]


async def count_open(session: AsyncSession, inboxes: frozenset[str] | None, *, at_most: int) -> int:
    """How many tasks are open. It stops counting at `at_most`."""
    rows = await session.execute(
        select(col(Task.gid)).where(col(Task.state) == TaskState.OPEN, *_within(inboxes)).limit(at_most)
    )
    return len(rows.all())


async def inboxes(session: AsyncSession, within: frozenset[str] | None, *, limit: int) -> Sequence[Endpoint]:
    """The inboxes to choose from, newest first."""
    chosen = [] if within is None else [col(Endpoint.gid).in_(within)]
    rows = await session.execute(
        select(Endpoint)
        .where(col(Endpoint.mode) == DeliveryMode.INBOX, col(Endpoint.deleted_at).is_(None), *chosen)
        .order_by(col(Endpoint.gid).desc())
        .limit(limit)
    )
    return rows.scalars().all()


async def decision_receipt(session: AsyncSession, task: Task) -> str | None:
    """The gid of the receipt of the decision. None before it, and once receipts of its time were archived."""
    if task.state is not TaskState.DECIDED:
        return None
    found = await session.execute(
        select(col(Receipt.gid))
        .where(col(Receipt.delivery_gid) == task.delivery_gid)
        .order_by(col(Receipt.gid).desc())
        .limit(1)
    )
    return found.scalar_one_or_none()


async def earlier_receipts(session: AsyncSession, task: Task) -> Sequence[str]:
    """The gids of the receipts of the decisions about the same message before this one."""
    rows = await session.execute(
        select(col(Receipt.gid))
        .join(Task, col(Task.delivery_gid) == col(Receipt.delivery_gid))
        .where(
            col(Task.message_gid) == task.message_gid, col(Task.gid) < task.gid, col(Task.state) == TaskState.DECIDED
        )
        .order_by(col(Receipt.gid))
    )
    return rows.scalars().all()


async def close(session: AsyncSession, task: Task, version: int, values: dict[str, Any]) -> bool:
    """Decide a task, if it is open and nothing changed since `version`."""
    changed = await session.execute(
        update(Task)
        .where(col(Task.gid) == task.gid, col(Task.version) == version, col(Task.state) == TaskState.OPEN)
        .values(version=version + 1, state=TaskState.DECIDED, **values)
        .returning(col(Task.gid))
    )
    return changed.scalar_one_or_none() is not None


async def discard_declined(session: AsyncSession, delivery: Delivery, number: int, by: str, why: str | None) -> None:
    """Discard a delivery, because a person declined it."""
    moment = now()
    await session.execute(
        update(Delivery)
        .where(col(Delivery.gid) == delivery.gid, col(Delivery.status) == DeliveryStatus.AWAITING_DECISION)
        .values(
            status=DeliveryStatus.DISCARDED,
            reason=DeadLetterReason.DECLINED,
            attempts=number,
            completed_at=moment,
            dispatched_at=func.coalesce(col(Delivery.dispatched_at), moment),
            due_at=None,
            decided_by=by,
            decided_why=why,
        )
    )
