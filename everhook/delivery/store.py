"""Deliveries: changes of status apart from attempts, and reads for operators."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryStatus, OperatorAction
from everhook.ids import Kind
from everhook.notifications.events import EventKind, is_reserved
from everhook.ordering.store import Freed, settle, settle_dead_letter
from everhook.storage.event_outbox import record_event
from everhook.storage.paging import Page, in_time, one_of, page_of
from everhook.storage.statements import table_of
from everhook.storage.tables import Delivery, DeliveryRound, Message, now

HAS_NO_WORKFLOW = col(Delivery.dispatched_at).is_(None)


async def mark_dispatched(connection: AsyncConnection, started: Collection[tuple[str, int]]) -> None:
    """Record that the workflows of these deliveries, given with their rounds, were started. One whose next round was
    opened meanwhile has no workflow for it yet."""
    for round_ in sorted({round_ for _, round_ in started}):
        gids = sorted(gid for gid, each in started if each == round_)
        await connection.execute(
            update(Delivery)
            .where(col(Delivery.gid).in_(gids), col(Delivery.round) == round_, HAS_NO_WORKFLOW)
            .values(
                dispatched_at=now(),
                status=case(
                    (col(Delivery.status) == DeliveryStatus.ACCEPTED, DeliveryStatus.SENDING),
                    else_=col(Delivery.status),
                ),
            )
        )


@dataclass(frozen=True)
class DeadLettered:
    """`at` is the delivery's `dead_lettered_at`; None if it is no dead letter of that round. `freed` are the deliveries
    whose turn in their group it is now."""

    at: datetime | None
    freed: Sequence[Freed] = ()


async def dead_letter(
    session: AsyncSession, gid: str, round_: int, reason: DeadLetterReason, until: datetime
) -> DeadLettered:
    """Dead-letter a delivery and record the event for operators. Running this twice changes nothing.

    A dead letter on a channel of Everhook itself is not an event: the event could not be delivered either.
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
        .returning(*(col(getattr(Delivery, name)) for name in _RETURNED))
    )
    row = changed.one_or_none()
    if row is None:
        return DeadLettered(await _dead_since(session, gid, round_))
    if not is_reserved(row.channel):
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
    return DeadLettered(row.dead_lettered_at, await settle_dead_letter(await session.connection(), gid, reason))


_RETURNED = (
    "tenant_gid", "endpoint_gid", "message_gid", "channel", "event_type", "last_status_code", "last_error",
    "dead_lettered_at",
)  # fmt: skip


async def _dead_since(session: AsyncSession, gid: str, round_: int) -> datetime | None:
    found = await session.execute(
        select(col(Delivery.dead_lettered_at)).where(
            col(Delivery.gid) == gid,
            col(Delivery.round) == round_,
            col(Delivery.status) == DeliveryStatus.DEAD_LETTERED,
        )
    )
    return found.scalar_one_or_none()


async def open_round(session: AsyncSession, gid: str, after: int, action: OperatorAction) -> bool:
    """Open the round after `after`, for a replay. Its attempts count from one; those of earlier rounds stay. False
    if it was opened before."""
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
            decided_by=action.by,
            decided_why=action.because,
        )
        .returning(col(Delivery.gid))
    )
    if opened.one_or_none() is None:
        return False
    session.add(DeliveryRound(delivery_gid=gid, round=after + 1, began_at=now()))
    return True


async def lock_in_round(session: AsyncSession, gid: str, round_: int) -> bool:
    """Lock a delivery, so that no replay opens the next round meanwhile. False if it is not in that round."""
    found = await session.execute(select(col(Delivery.round)).where(col(Delivery.gid) == gid).with_for_update())
    return found.scalar_one_or_none() == round_


async def discard(session: AsyncSession, gid: str, action: OperatorAction) -> Sequence[Freed]:
    """Give a delivery up, by decision of an operator or by retention. Returns the deliveries whose turn in their group
    it is now."""
    await session.execute(
        update(Delivery)
        .where(col(Delivery.gid) == gid, col(Delivery.status) != DeliveryStatus.DELIVERED)
        .values(
            status=DeliveryStatus.DISCARDED,
            completed_at=func.coalesce(col(Delivery.completed_at), now()),
            dispatched_at=func.coalesce(col(Delivery.dispatched_at), now()),
            due_at=None,
            parked_at=None,
            decided_by=action.by,
            decided_why=action.because,
        )
    )
    return await settle(await session.connection(), [gid])


IS_UNDISPATCHED = and_(
    HAS_NO_WORKFLOW,
    col(Delivery.status)
    != literal(DeliveryStatus.PARKED, type_=table_of(Delivery).c.status.type, literal_execute=True),
)
"""In progress in the process that accepted it, or waiting for its workflow to start; written like its index."""


async def count_undispatched(connection: AsyncConnection, at_most: int) -> int:
    """How many deliveries are in progress without a workflow or wait for one, counted up to `at_most`."""
    waiting = select(col(Delivery.gid)).where(IS_UNDISPATCHED).limit(at_most).subquery()
    return int((await connection.execute(select(func.count()).select_from(waiting))).scalar_one())


async def oldest_undispatched(connection: AsyncConnection, at_most: int) -> tuple[int, datetime | None]:
    """The same count, and when the oldest of those that were counted was accepted."""
    waiting = select(col(Delivery.accepted_at)).where(IS_UNDISPATCHED).limit(at_most).subquery()
    found = await connection.execute(select(func.count(), func.min(waiting.c.accepted_at)).select_from(waiting))
    count, oldest = found.one()
    return count, oldest


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
    """Several values of a field mean any of them. `since` (inclusive) and `until` (exclusive) bound the time of
    acceptance."""

    tenant_gid: str | tuple[str, ...] | None = None
    message_gid: str | tuple[str, ...] | None = None
    endpoint_gid: str | tuple[str, ...] | None = None
    subscription_gid: str | tuple[str, ...] | None = None
    channel: str | tuple[str, ...] | None = None
    event_type: str | tuple[str, ...] | None = None
    status: DeliveryStatus | tuple[DeliveryStatus, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None


_IMPLIES = {
    DeliveryStatus.ACCEPTED: IS_UNDISPATCHED,
    DeliveryStatus.SENDING: col(Delivery.due_at).is_not(None),
}
"""Conditions that a status implies and that have an index: few deliveries have the status at a time."""


def _has_status(status: DeliveryStatus) -> ColumnElement[bool]:
    return and_(col(Delivery.status) == status, _IMPLIES.get(status, true()))


async def page(session: AsyncSession, chosen: DeliveryFilter, *, after: str | None, limit: int) -> Page[Delivery]:
    statement = select(Delivery)
    for column, value in (
        (Delivery.tenant_gid, chosen.tenant_gid),
        (Delivery.message_gid, chosen.message_gid),
        (Delivery.endpoint_gid, chosen.endpoint_gid),
        (Delivery.subscription_gid, chosen.subscription_gid),
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
    """How many deliveries of a message are in each status; statuses without any are left out."""
    rows = await session.execute(
        select(col(Delivery.status), func.count())
        .where(col(Delivery.message_gid) == message_gid)
        .group_by(col(Delivery.status))
    )
    counts = {row[0]: int(row[1]) for row in rows}
    return {status: counts[status] for status in DeliveryStatus if status in counts}
