"""What the reconciler asks about deliveries: which ones have a next step that is late."""

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
    """A delivery whose next step is late. `has_workflow`: it was started, so its workflow may have been lost."""

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

    - Not known to have started, and their step is due: the process that accepted them died, or Temporal was away.
    - Started, and their step was due before `lost_before`: Temporal's store was lost, or restored from a backup.

    `but`: not those of these endpoints. `endings`: only those of endpoints whose gid ends with one of these characters.
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
    """Parked deliveries without a workflow whose window has ended while their endpoint is paused: a pause may last.
    Returns how many were looked at again later."""
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
    """Check these again only after a while.

    One that has meanwhile taken its next step is due when that step says. A dead letter whose date were overwritten
    here would be taken for one at the end of its retention, and be discarded.
    """
    moment = now()
    await connection.execute(
        update(Delivery).where(col(Delivery.gid).in_(gids), col(Delivery.due_at) < moment).values(due_at=moment + wait)
    )
