"""What happens to a task at a replay and at a discard of its delivery, and what its timers write."""

from datetime import datetime

from sqlalchemy import delete, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import DeliveryStatus
from everhook.inbox.schedule import Schedule
from everhook.inbox.store import find_of_delivery, record_task_event
from everhook.notifications.events import EventKind
from everhook.storage.tables import Delivery, Task, TaskDecision, TaskState, now


async def ask_again(session: AsyncSession, delivery_gid: str) -> None:
    """Open the task of a delivery whose next round was opened. Does nothing for a delivery without a task."""
    row = await find_of_delivery(session, delivery_gid)
    if row is None:
        return
    task = row.task
    task.state, task.version = TaskState.OPEN, task.version + 1
    task.escalated_at = task.escalated_to = None
    task.outcome = task.comment = task.data = task.decided_by = task.decided_at = None  # receipts keep the decision
    set_schedule(task, Schedule.of(task.document, now()))
    session.add(task)
    record_task_event(session, EventKind.TASK_OPENED, row)
    await session.execute(delete(TaskDecision).where(col(TaskDecision.task_gid) == task.gid))
    await session.execute(
        update(Delivery).where(col(Delivery.gid) == delivery_gid).values(status=DeliveryStatus.AWAITING_DECISION)
    )


async def cancel(session: AsyncSession, delivery_gid: str) -> None:
    """Close the task of a delivery that is discarded, if it is open. It comes before the change of the delivery."""
    await session.execute(
        update(Task)
        .where(col(Task.delivery_gid) == delivery_gid, col(Task.state) == TaskState.OPEN)
        .values(state=TaskState.CANCELLED, version=Task.version + 1)
    )


def set_schedule(task: Task, schedule: Schedule) -> None:
    """The times and counts of a schedule, as the row has them."""
    task.due_at, task.remind_at, task.reminders_sent = schedule.due_at, schedule.remind_at, schedule.reminders_sent


async def wait_until(session: AsyncSession, delivery_gid: str, next_at: datetime) -> None:
    """Record that a workflow guards a delivery to an inbox, and when its next timer is due: after that the reconciler
    takes the workflow for lost."""
    await session.execute(
        update(Delivery)
        .where(col(Delivery.gid) == delivery_gid, col(Delivery.status) == DeliveryStatus.AWAITING_DECISION)
        .values(due_at=next_at, dispatched_at=func.coalesce(col(Delivery.dispatched_at), now()))
    )
