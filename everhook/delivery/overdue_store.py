"""What the reconciler reads: deliveries whose next step is late."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.circuit.machine import Hold
from everhook.contracts import DeliveryStatus
from everhook.delivery.store import HAS_NO_WORKFLOW
from everhook.storage.tables import CircuitRow, Delivery, now


@dataclass(frozen=True)
class Overdue:
    """A delivery whose next step is late. `has_workflow`: its workflow was started, so it may have been lost."""

    gid: str
    endpoint_gid: str
    has_workflow: bool


async def oldest_overdue(
    connection: AsyncConnection,
    lost_before: datetime,
    limit: int,
    *,
    but: Sequence[str] = (),
    endings: str = "",
) -> list[Overdue]:
    """Deliveries that need a workflow, the longest overdue first.

    - Not known to have a workflow, and their step is due: the process that accepted them died, or Temporal was
      unavailable.
    - Started, and their step was due before `lost_before`: Temporal's store was lost, or restored from a backup.

    `but` excludes these endpoints. `endings`: only endpoints whose gid ends with one of these characters.
    """
    gid = col(Delivery.endpoint_gid)
    statement = (
        select(col(Delivery.gid), gid, col(Delivery.dispatched_at).is_not(None))
        .where(col(Delivery.due_at) < now(), or_(HAS_NO_WORKFLOW, col(Delivery.due_at) < lost_before))
        .order_by(col(Delivery.due_at))
        .limit(limit)
    )
    if but:
        statement = statement.where(gid.not_in(but))
    if endings:
        statement = statement.where(func.substr(gid, func.length(gid)).in_(list(endings)))
    return [Overdue(row[0], row[1], bool(row[2])) for row in await connection.execute(statement)]


async def defer_paused(connection: AsyncConnection, wait: timedelta, limit: int) -> int:
    """Postpone the check of parked deliveries without a workflow whose window has ended while their endpoint is paused:
    the pause may last long. Returns how many."""
    paused = select(col(CircuitRow.endpoint_gid)).where(col(CircuitRow.hold) == Hold.PAUSED)
    due = (
        select(col(Delivery.gid))
        .where(
            col(Delivery.due_at) < now(),
            col(Delivery.status) == DeliveryStatus.PARKED,
            HAS_NO_WORKFLOW,
            col(Delivery.endpoint_gid).in_(paused),
        )
        .limit(limit)
    )
    result = await connection.execute(update(Delivery).where(col(Delivery.gid).in_(due)).values(due_at=now() + wait))
    return int(result.rowcount)


async def defer(connection: AsyncConnection, gids: Sequence[str], wait: timedelta) -> None:
    """Postpone the next check of these deliveries.

    A delivery that has taken its next step meanwhile keeps its `due_at`. If that of a dead letter were overwritten
    here, its retention would seem to be over, and it would be discarded.
    """
    moment = now()
    await connection.execute(
        update(Delivery).where(col(Delivery.gid).in_(gids), col(Delivery.due_at) < moment).values(due_at=moment + wait)
    )
