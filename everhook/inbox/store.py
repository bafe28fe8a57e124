"""Tasks in the database. Rows are locked in this order: task, then delivery."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus
from everhook.storage.paging import Page, one_of, page_of
from everhook.storage.tables import (
    Delivery,
    Endpoint,
    Message,
    Receipt,
    Task,
    TaskDecision,
    TaskState,
    now,
)


@dataclass(frozen=True)
class TaskFilter:
    """Several values of a field mean any of them. `assignee` is named among the assignees. `overdue`: open, and past
    its due date. `inboxes` are those that the caller may see; None: all of the tenant's."""

    state: TaskState | tuple[TaskState, ...] | None = None
    endpoint_gid: str | tuple[str, ...] | None = None
    assignee: str | None = None
    overdue: bool = False
    inboxes: frozenset[str] | None = None


async def page(session: AsyncSession, chosen: TaskFilter, *, after: str | None, limit: int) -> Page[Task]:
    """One page, newest first."""
    statement = select(Task).where(
        *one_of(col(Task.state), chosen.state),
        *one_of(col(Task.endpoint_gid), chosen.endpoint_gid),
        *_within(chosen.inboxes),
    )
    if chosen.assignee is not None:
        named = cast(col(Task.assignees), String).contains(f'"{chosen.assignee}"', autoescape=True)
        statement = statement.where(named)
    if chosen.overdue:
        statement = statement.where(col(Task.state) == TaskState.OPEN, col(Task.due_at) <= now())
    return await page_of(session, statement, col(Task.gid), after=after, limit=limit)


@dataclass(frozen=True)
class TaskRow:
    """A task with its delivery, its message and its inbox."""

    task: Task
    delivery: Delivery
    message: Message
    inbox: Endpoint


async def find(session: AsyncSession, gid: str, *, for_change: bool = False) -> TaskRow | None:
    """With `for_change` the task is locked until the transaction ends."""
    if for_change:
        await session.execute(select(col(Task.gid)).where(col(Task.gid) == gid).with_for_update())
    found = await session.execute(
        select(Task, Delivery, Message, Endpoint)
        .join(Delivery, col(Delivery.gid) == col(Task.delivery_gid))
        .join(Message, col(Message.gid) == col(Task.message_gid))
        .join(Endpoint, col(Endpoint.gid) == col(Task.endpoint_gid))
        .where(col(Task.gid) == gid)
    )
    row = found.one_or_none()
    return TaskRow(*row) if row is not None else None


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
    return [] if inboxes is None else [col(Task.endpoint_gid).in_(inboxes)]


async def open_by_due_date(
    session: AsyncSession, inboxes: frozenset[str] | None, endpoint_gid: str | None, *, limit: int
) -> Sequence[tuple[Task, Endpoint]]:
    """Open tasks with their inboxes, the earliest due date first."""
    chosen = [col(Task.endpoint_gid) == endpoint_gid] if endpoint_gid is not None else []
    rows = await session.execute(
        select(Task, Endpoint)
        .join(Endpoint, col(Endpoint.gid) == col(Task.endpoint_gid))
        .where(col(Task.state) == TaskState.OPEN, *_within(inboxes), *chosen)
        .order_by(col(Task.due_at))
        .limit(limit)
    )
    return [(task, endpoint) for task, endpoint in rows]


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
