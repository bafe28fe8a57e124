"""What the reconciler reads: deliveries whose next step is late."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select, tuple_, update
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


Position = tuple[datetime, str]
"""Where a window ended: the due time and the gid of its last delivery."""


@dataclass(frozen=True)
class Window:
    """A part of the overdue deliveries. `end` is None if there are none after it."""

    overdue: Sequence[Overdue]
    end: Position | None


async def overdue_window(
    connection: AsyncConnection,
    lost_before: datetime,
    after: Position | None,
    *,
    rows: int,
    share: int,
    endings: str = "",
) -> Window:
    """Deliveries that need a workflow, among the next `rows` overdue ones after a position: the first `share` of each
    endpoint, endpoints in turns.

    - Not known to have a workflow, and their step is due: the process that accepted them died, or Temporal was
      unavailable.
    - Started, and their step was due before `lost_before`: Temporal's store was lost, or restored from a backup.

    `endings`: only endpoints whose gid ends with one of these characters. The cost is that of reading `rows` entries of
    the index, however many deliveries are overdue.
    """
    endpoint, due = col(Delivery.endpoint_gid), col(Delivery.due_at)
    statement = (
        select(col(Delivery.gid), endpoint, due, col(Delivery.dispatched_at).is_not(None).label("has_workflow"))
        .where(due < now(), or_(HAS_NO_WORKFLOW, due < lost_before))
        .order_by(due, col(Delivery.gid))
        .limit(rows)
    )
    if after is not None:
        # The first condition bounds the range of the index, which has no gids.
        statement = statement.where(due >= after[0], tuple_(due, col(Delivery.gid)) > after)
    statement = statement.where(*_ends_with(endings))
    window = statement.subquery()
    turn = func.row_number().over(partition_by=window.c.endpoint_gid, order_by=(window.c.due_at, window.c.gid))
    turns = select(window, turn.label("turn")).subquery()
    found = (await connection.execute(select(turns).order_by(turns.c.turn, turns.c.due_at))).all()
    overdue = [Overdue(row.gid, row.endpoint_gid, bool(row.has_workflow)) for row in found if row.turn <= share]
    end = max(((row.due_at, row.gid) for row in found), default=None)
    return Window(overdue, end if len(found) == rows else None)


def _ends_with(endings: str) -> list[ColumnElement[bool]]:
    endpoint = col(Delivery.endpoint_gid)
    return [func.substr(endpoint, func.length(endpoint)).in_(list(endings))] if endings else []


async def defer_paused(connection: AsyncConnection, wait: timedelta, limit: int, *, endings: str = "") -> int:
    """Postpone the check of parked deliveries without a workflow whose window has ended while their endpoint is paused:
    the pause may last long. `endings` are as those of a window. Returns how many, up to `limit`."""
    paused = select(col(CircuitRow.endpoint_gid)).where(col(CircuitRow.hold) == Hold.PAUSED)
    due = (
        select(col(Delivery.gid))
        .where(
            col(Delivery.due_at) < now(),
            col(Delivery.status) == DeliveryStatus.PARKED,
            HAS_NO_WORKFLOW,
            col(Delivery.endpoint_gid).in_(paused),
            *_ends_with(endings),
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
