"""Deliveries: their steps outside of attempts, the reconciler's questions, and reading them back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.circuit.machine import Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorAction
from everhook.ids import Kind
from everhook.notifications.events import EventKind, is_reserved
from everhook.storage.event_outbox import record_event
from everhook.storage.paging import Page, in_time, one_of, page_of
from everhook.storage.statements import table_of
from everhook.storage.tables import CircuitRow, Delivery, DeliveryRound, Message, now

_UNDISPATCHED = col(Delivery.dispatched_at).is_(None)


async def mark_dispatched(connection: AsyncConnection, gids: Sequence[str]) -> None:
    """These deliveries' workflows are known to have started."""
    await connection.execute(
        update(Delivery)
        .where(col(Delivery.gid).in_(gids), _UNDISPATCHED)
        .values(
            dispatched_at=now(),
            status=case(
                (col(Delivery.status) == DeliveryStatus.ACCEPTED, DeliveryStatus.SENDING), else_=col(Delivery.status)
            ),
        )
    )


async def dead_letter(session: AsyncSession, gid: str, round_: int, reason: DeadLetterReason, until: datetime) -> None:
    """Put a delivery in the dead letter queue, and tell operators. Running twice changes nothing.

    That operators could not be told of something is not told to them the same way.
    """
    changed = await session.execute(
        update(Delivery)
        .where(
            col(Delivery.gid) == gid,
            col(Delivery.round) == round_,
            col(Delivery.status).not_in(
                [DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED, DeliveryStatus.DEAD_LETTERED]
            ),
        )
        .values(
            status=DeliveryStatus.DEAD_LETTERED,
            reason=reason,
            dead_lettered_at=now(),
            parked_at=None,
            due_at=until,
        )
        .returning(*(col(getattr(Delivery, name)) for name in _TOLD))
    )
    row = changed.one_or_none()
    if row is not None and not is_reserved(row.channel):
        record_event(
            session,
            EventKind.DEAD_LETTERED,
            tenant_gid=row.tenant_gid,
            endpoint_gid=row.endpoint_gid,
            delivery_gid=gid,
            data={
                "reason": reason.value,
                "round": round_,
                "messageGid": row.message_gid,
                "channelName": row.channel,
                "type": row.event_type,
                "statusCode": row.last_status_code,
                "error": row.last_error,
            },
        )


_TOLD = ("tenant_gid", "endpoint_gid", "message_gid", "channel", "event_type", "last_status_code", "last_error")
"""What is told of a dead letter."""


async def open_round(session: AsyncSession, gid: str, after: int, note: OperatorAction) -> None:
    """A replay: the round after `after` begins. Its attempts count from one; the old ones stay."""
    opened = await session.execute(
        update(Delivery)
        .where(
            col(Delivery.gid) == gid,
            col(Delivery.round) == after,
            col(Delivery.status).not_in([DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED]),
        )
        .values(
            status=DeliveryStatus.SENDING,
            round=after + 1,
            attempts=0,
            reason=None,
            dead_lettered_at=None,
            due_at=now(),
            decided_by=note.by,
            decided_why=note.because,
        )
        .returning(col(Delivery.gid))
    )
    if opened.one_or_none() is not None:
        session.add(DeliveryRound(delivery_gid=gid, round=after + 1, began_at=now()))


async def discard(session: AsyncSession, gid: str, note: OperatorAction) -> None:
    """End a delivery undelivered, on somebody's word or by retention."""
    await session.execute(
        update(Delivery)
        .where(col(Delivery.gid) == gid, col(Delivery.status) != DeliveryStatus.DELIVERED)
        .values(
            status=DeliveryStatus.DISCARDED,
            completed_at=func.coalesce(col(Delivery.completed_at), now()),
            dispatched_at=func.coalesce(col(Delivery.dispatched_at), now()),
            due_at=None,
            parked_at=None,
            decided_by=note.by,
            decided_why=note.because,
        )
    )


@dataclass(frozen=True)
class Parked:
    """A parked delivery. One without a workflow was parked when it was accepted, or before its first attempt."""

    gid: str
    has_workflow: bool


async def oldest_parked(connection: AsyncConnection, endpoint_gid: str, limit: int) -> list[Parked]:
    rows = await connection.execute(
        select(col(Delivery.gid), col(Delivery.dispatched_at).is_not(None))
        .where(col(Delivery.endpoint_gid) == endpoint_gid, col(Delivery.status) == DeliveryStatus.PARKED)
        .order_by(col(Delivery.gid))
        .limit(limit)
    )
    return [Parked(row[0], bool(row[1])) for row in rows]


COUNTED_PARKED = 100_000


async def count_parked(connection: AsyncConnection, endpoint_gid: str) -> int:
    """How many deliveries of an endpoint are parked, counted up to `COUNTED_PARKED`."""
    parked = (
        select(col(Delivery.gid))
        .where(col(Delivery.endpoint_gid) == endpoint_gid, col(Delivery.status) == DeliveryStatus.PARKED)
        .limit(COUNTED_PARKED)
        .subquery()
    )
    return int((await connection.execute(select(func.count()).select_from(parked))).scalar_one())


async def accept_again(
    connection: AsyncConnection, gids: Sequence[str], seen_at: datetime, bound: timedelta
) -> set[str]:
    """Make parked deliveries without a workflow what they were when they were accepted. Returns those that are.

    `bound` is how long their first attempts may take. One that has parked again since it was seen stays parked.
    """
    rows = await connection.execute(
        update(Delivery)
        .where(
            col(Delivery.gid).in_(gids),
            col(Delivery.status) == DeliveryStatus.PARKED,
            col(Delivery.parked_at) <= seen_at,
            _UNDISPATCHED,
        )
        .values(status=DeliveryStatus.ACCEPTED, due_at=now() + bound, parked_at=None)
        .returning(col(Delivery.gid))
    )
    return set(rows.scalars())


async def mark_released(connection: AsyncConnection, gids: Sequence[str], seen_at: datetime) -> None:
    """These were woken. One that has parked again since it was seen stays parked."""
    await connection.execute(
        update(Delivery)
        .where(
            col(Delivery.gid).in_(gids),
            col(Delivery.status) == DeliveryStatus.PARKED,
            col(Delivery.parked_at) <= seen_at,
        )
        .values(status=DeliveryStatus.RETRYING, due_at=now(), parked_at=None)
    )


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
        .where(col(Delivery.due_at) < now(), or_(_UNDISPATCHED, col(Delivery.due_at) < lost_before))
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
            _UNDISPATCHED,
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


IS_UNDISPATCHED = and_(
    _UNDISPATCHED,
    col(Delivery.status)
    != literal(DeliveryStatus.PARKED, type_=table_of(Delivery).c.status.type, literal_execute=True),
)
"""Under way in the process that accepted it, or waiting for its workflow to start; spelt as its index is."""


async def count_undispatched(connection: AsyncConnection, at_most: int) -> int:
    """How many deliveries are under way without a workflow or wait for one, counted up to `at_most`."""
    waiting = select(col(Delivery.gid)).where(IS_UNDISPATCHED).limit(at_most).subquery()
    return int((await connection.execute(select(func.count()).select_from(waiting))).scalar_one())


async def get(session: AsyncSession, gid: str) -> Delivery | None:
    return await session.get(Delivery, gid)


async def with_message(session: AsyncSession, delivery_gid: str) -> tuple[Delivery, Message] | None:
    result = await session.execute(
        select(Delivery, Message)
        .join(Message, col(Message.gid) == col(Delivery.message_gid))
        .where(col(Delivery.gid) == delivery_gid)
    )
    row = result.one_or_none()
    return (row[0], row[1]) if row is not None else None


@dataclass(frozen=True)
class DeliveryFilter:
    """Several values of a field mean any of them. `since` and `until` bound the time of acceptance: from, before."""

    tenant_gid: str | tuple[str, ...] | None = None
    message_gid: str | tuple[str, ...] | None = None
    endpoint_gid: str | tuple[str, ...] | None = None
    channel: str | tuple[str, ...] | None = None
    event_type: str | tuple[str, ...] | None = None
    status: DeliveryStatus | tuple[DeliveryStatus, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


_IMPLIES = {
    DeliveryStatus.ACCEPTED: IS_UNDISPATCHED,
    DeliveryStatus.SENDING: col(Delivery.due_at).is_not(None),
}
"""What is always so of a status, and has an index: few deliveries are in it at a time, among all those that were."""


def _has_status(status: DeliveryStatus) -> ColumnElement[bool]:
    return and_(col(Delivery.status) == status, _IMPLIES.get(status, true()))


async def page(session: AsyncSession, chosen: DeliveryFilter, *, after: str | None, limit: int) -> Page[Delivery]:
    statement = select(Delivery)
    for column, value in (
        (Delivery.tenant_gid, chosen.tenant_gid),
        (Delivery.message_gid, chosen.message_gid),
        (Delivery.endpoint_gid, chosen.endpoint_gid),
        (Delivery.channel, chosen.channel),
        (Delivery.event_type, chosen.event_type),
    ):
        statement = statement.where(*one_of(col(column), value))
    statuses = (chosen.status,) if isinstance(chosen.status, DeliveryStatus) else chosen.status
    if statuses:
        statement = statement.where(or_(*map(_has_status, statuses)))
    key = col(Delivery.gid)
    statement = statement.where(*in_time(col(Delivery.accepted_at), key, Kind.DELIVERY, chosen.since, chosen.until))
    return await page_of(session, statement, key, after=after, limit=limit)


async def counts_of_message(session: AsyncSession, message_gid: str) -> dict[DeliveryStatus, int]:
    """How many deliveries of a message are in each status; statuses of none are left out."""
    rows = await session.execute(
        select(col(Delivery.status), func.count())
        .where(col(Delivery.message_gid) == message_gid)
        .group_by(col(Delivery.status))
    )
    counts = {row[0]: int(row[1]) for row in rows}
    return {status: counts[status] for status in DeliveryStatus if status in counts}
