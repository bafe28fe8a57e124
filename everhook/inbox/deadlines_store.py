"""What happens to a task at its due date, at a replay and at a discard. A timer that fires beside a decision does
nothing: the row is asked first."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryStatus, PullCheck, PulledState
from everhook.delivery.store import dead_letter
from everhook.inbox.store import discard_declined
from everhook.inbox.tasks import OnDue
from everhook.storage.tables import Delivery, Task, TaskDecision, TaskState, now

DUE_DATE = "the due date"
"""Who decided, if no one did."""


async def check_task(session: AsyncSession, check: PullCheck, state: PulledState) -> PulledState:
    """Find out, for its workflow, what became of a task; end it if it is past its due date. Without a decision in
    time it is a dead letter (`expired`), or declined, if the task says so."""
    task = await _locked(session, check.delivery_gid)
    if task is None or task.state is not TaskState.OPEN:
        return replace(state, status=await _status(session, check.delivery_gid))  # it was decided just now
    moment = now()
    if check.give_up is None and task.due_at > moment:
        return replace(state, check_at=task.due_at)
    task.state = TaskState.EXPIRED
    task.version += 1
    session.add(task)
    await session.flush()
    if check.give_up is None and task.document.get("onDue") == OnDue.DECLINE:
        delivery = await session.get_one(Delivery, check.delivery_gid)
        await discard_declined(session, delivery, delivery.attempts, DUE_DATE, "no one decided in time")
        return replace(state, status=DeliveryStatus.DISCARDED)
    reason = check.give_up or DeadLetterReason.EXPIRED
    await dead_letter(session, check.delivery_gid, check.round, reason, moment + check.retention)
    return replace(state, status=DeliveryStatus.DEAD_LETTERED, reason=reason)


async def ask_again(session: AsyncSession, delivery_gid: str) -> None:
    """Open the task of a delivery whose next round was opened. Does nothing for a delivery without a task."""
    task = await _locked(session, delivery_gid)
    if task is None:
        return
    task.state, task.version = TaskState.OPEN, task.version + 1
    task.due_at = now() + timedelta(seconds=task.document["dueSeconds"])
    session.add(task)
    await session.execute(delete(TaskDecision).where(col(TaskDecision.task_gid) == task.gid))
    await session.execute(
        update(Delivery)
        .where(col(Delivery.gid) == delivery_gid)
        .values(status=DeliveryStatus.AWAITING_DECISION, due_at=task.due_at)
    )


async def cancel(session: AsyncSession, delivery_gid: str) -> None:
    """Close the task of a delivery that is discarded, if it is open. It comes before the change of the delivery."""
    await session.execute(
        update(Task)
        .where(col(Task.delivery_gid) == delivery_gid, col(Task.state) == TaskState.OPEN)
        .values(state=TaskState.CANCELLED, version=Task.version + 1)
    )


async def _status(session: AsyncSession, delivery_gid: str) -> DeliveryStatus:
    found = await session.execute(select(col(Delivery.status)).where(col(Delivery.gid) == delivery_gid))
    return found.scalar_one()


async def _locked(session: AsyncSession, delivery_gid: str) -> Task | None:
    found = await session.execute(
        select(Task)
        .where(col(Task.delivery_gid) == delivery_gid)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.scalar_one_or_none()
