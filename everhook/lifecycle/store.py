"""Outcomes of messages: the queries for waiting and for lifecycle events. None of them reads a payload."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    String,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus, Verdict
from everhook.ids import Kind, first_gid_at, moment_of
from everhook.lifecycle.events import (
    SETTLED_STATUSES,
    AttemptRow,
    DeliveryHistory,
    DeliveryRow,
    GateRow,
    MessageRow,
    Position,
    TaskRow,
)
from everhook.storage.paging import WRITTEN_WITHIN
from everhook.storage.tables import (
    Attempt,
    Delivery,
    DeliveryRound,
    Endpoint,
    Gate,
    Message,
    ScheduledMessage,
    Task,
    TaskState,
)

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""For each status: how many deliveries of a message have it, and the sums of their rounds and attempts; for `task`, the
sums of the versions of its tasks, and of the reminders. It differs after every change that has an event."""


async def message(session: AsyncSession, gid: str) -> MessageRow | None:
    columns = (col(Message.gid), col(Message.accepted_at), col(Message.published_by), col(Message.deliver_at))
    row = (await session.execute(select(*columns).where(col(Message.gid) == gid))).one_or_none()
    return MessageRow(*row) if row is not None else None


async def fingerprints(connection: AsyncConnection, message_gids: Collection[str]) -> dict[str, Fingerprint]:
    """Those of many messages, in one query. Messages without deliveries are left out."""
    found: dict[str, list[tuple[str, int, int, int]]] = {}
    for row in await connection.execute(_fingerprints(message_gids)):
        found.setdefault(row[0], []).append((row[1], int(row[2]), int(row[3]), int(row[4])))
    return {gid: tuple(sorted(parts)) for gid, parts in found.items()}


def _fingerprints(message_gids: Collection[str]) -> CompoundSelect[*tuple[Any, ...]]:
    deliveries = (
        select(
            col(Delivery.message_gid),
            cast(col(Delivery.status), String),
            func.count(),
            func.sum(col(Delivery.round)),
            func.sum(col(Delivery.attempts)),
        )
        .where(*_of_messages(message_gids))
        .group_by(col(Delivery.message_gid), col(Delivery.status))
    )
    tasks = (
        select(
            col(Task.message_gid),
            literal("task"),
            func.count(),
            func.sum(col(Task.version)),
            func.sum(col(Task.reminders_sent)),
        )
        .where(col(Task.message_gid).in_(sorted(message_gids)))
        .group_by(col(Task.message_gid))
    )
    return union_all(deliveries, tasks)


def _of_messages(message_gids: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    """A delivery is created with its message, so the range of keys is known: PostgreSQL reads the partitions of these
    months only."""
    moments = [moment_of(gid) for gid in message_gids]
    return (
        col(Delivery.message_gid).in_(sorted(message_gids)),
        col(Delivery.gid) >= first_gid_at(Kind.DELIVERY, min(moments) - WRITTEN_WITHIN),
        col(Delivery.gid) < first_gid_at(Kind.DELIVERY, max(moments) + WRITTEN_WITHIN),
    )


@dataclass(frozen=True)
class Tally:
    """How many deliveries of a message are in which status, and when the last one was settled.

    The steps of a gate are left out, unless the message has no other deliveries. `declined`: how many of the discarded
    ones a person declined; `gate_declined`: a person declined a step. `waits`: it has no deliveries before its time.
    """

    counts: dict[DeliveryStatus, int]
    last_at: datetime | None
    declined: int = 0
    gate_declined: bool = False
    waits: bool = False
    cancelled_at: datetime | None = None

    @property
    def settled(self) -> int:
        return sum(count for status, count in self.counts.items() if status in SETTLED_STATUSES)

    @property
    def is_settled(self) -> bool:
        return not self.waits and self.settled == sum(self.counts.values())


async def gate(session: AsyncSession, message_gid: str) -> GateRow | None:
    row = (await session.execute(select(Gate).where(col(Gate.message_gid) == message_gid))).scalar_one_or_none()
    if row is None:
        return None
    asked = frozenset(step["deliveryGid"] for step in row.steps if "deliveryGid" in step)
    return GateRow(row.gid, message_gid, len(row.steps), asked, row.created_at, row.ended_at, row.reason)


async def tally(session: AsyncSession, message_gid: str) -> Tally:
    passed, found = await _gate_and_counts(session, message_gid)
    waits, cancelled_at = (False, None) if found else await _schedule(session, message_gid)
    if not found and not waits:  # its time may have come in between
        passed, found = await _gate_and_counts(session, message_gid)
    moments = [
        row[2] if row[0] is DeliveryStatus.DEAD_LETTERED else row[3] for row in found if row[0] in SETTLED_STATUSES
    ]
    last_at = max((moment for moment in moments if moment is not None), default=None)
    gate_declined = passed is not None and passed.reason is DeadLetterReason.DECLINED
    return Tally(
        {row[0]: int(row[1]) for row in found},
        last_at,
        sum(int(row[4]) for row in found if row[0] is DeliveryStatus.DISCARDED),
        gate_declined,
        waits,
        cancelled_at,
    )


async def _gate_and_counts(session: AsyncSession, message_gid: str) -> tuple[GateRow | None, Sequence[Any]]:
    passed = await gate(session, message_gid)
    found = await _counts(session, message_gid, passed.asked if passed is not None else ())
    if passed is not None and not found:
        found = await _counts(session, message_gid, ())
    return passed, found


async def _schedule(session: AsyncSession, message_gid: str) -> tuple[bool, datetime | None]:
    """Whether a message without deliveries waits for its time, and when it was cancelled."""
    waits = exists().where(col(ScheduledMessage.message_gid) == message_gid)
    found = await session.execute(select(waits, col(Message.cancelled_at)).where(col(Message.gid) == message_gid))
    row = found.one_or_none()
    return (bool(row[0]), row[1]) if row is not None else (False, None)


async def _counts(session: AsyncSession, message_gid: str, without: Collection[str]) -> Sequence[Any]:
    """For each status: how many, when the last one was dead-lettered and completed, how many a person declined."""
    declined = case((col(Delivery.reason) == DeadLetterReason.DECLINED, 1), else_=0)
    others = [col(Delivery.gid).not_in(without)] if without else []
    rows = await session.execute(
        select(
            col(Delivery.status),
            func.count(),
            func.max(col(Delivery.dead_lettered_at)),
            func.max(col(Delivery.completed_at)),
            func.sum(declined),
        )
        .where(*_of_messages([message_gid]), *others)
        .group_by(col(Delivery.status))
    )
    return list(rows)


async def deliveries(
    session: AsyncSession, message_gid: str, *, since_gid: str | None = None, limit: int
) -> Sequence[DeliveryRow]:
    """In the order of their gids; from `since_gid` on, if it is given."""
    statement = (
        select(*(col(getattr(Delivery, name)) for name in _OF_DELIVERY), col(Endpoint.mode))
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .where(*_of_messages([message_gid]))
        .order_by(col(Delivery.gid))
        .limit(limit)
    )
    if since_gid is not None:
        statement = statement.where(col(Delivery.gid) >= since_gid)
    return [DeliveryRow(**row._mapping) for row in await session.execute(statement)]


_OF_DELIVERY = (
    "gid", "message_gid", "endpoint_gid", "status", "round", "attempts", "accepted_at", "dead_lettered_at",
    "completed_at", "reason", "decided_by", "decided_why",
)  # fmt: skip
_OF_ATTEMPT = (
    "gid", "delivery_gid", "round", "number", "verdict", "started_at", "duration_ms", "status_code", "error",
    "next_attempt_at",
)  # fmt: skip


async def histories(
    session: AsyncSession,
    rows: Sequence[DeliveryRow],
    *,
    after: tuple[str, Position] | None = None,
    limit: int | None = None,
) -> Sequence[DeliveryHistory]:
    """Deliveries with their attempts, rounds and tasks. `after`: of the first delivery, only those from the round of
    this position on. `limit`: at most so many attempts, and so many rounds, in all."""
    gids = [row.gid for row in rows]
    attempts = select(*(col(getattr(Attempt, name)) for name in _OF_ATTEMPT)).where(col(Attempt.delivery_gid).in_(gids))
    attempts = attempts.order_by(col(Attempt.delivery_gid), col(Attempt.round), col(Attempt.number)).limit(limit)
    rounds = select(col(DeliveryRound.delivery_gid), col(DeliveryRound.round), col(DeliveryRound.began_at)).where(
        col(DeliveryRound.delivery_gid).in_(gids)
    )
    rounds = rounds.order_by(col(DeliveryRound.delivery_gid), col(DeliveryRound.round)).limit(limit)
    if after is not None:
        gid, (round_, _) = after
        attempts = attempts.where(tuple_(col(Attempt.delivery_gid), col(Attempt.round)) >= (gid, round_))
        rounds = rounds.where(tuple_(col(DeliveryRound.delivery_gid), col(DeliveryRound.round)) >= (gid, round_))
    made: dict[str, list[AttemptRow]] = {gid: [] for gid in gids}
    for row in await session.execute(attempts):
        made[row.delivery_gid].append(AttemptRow(**row._mapping))
    replays: dict[str, dict[int, datetime]] = {gid: {} for gid in gids}
    for row in await session.execute(rounds):
        replays[row.delivery_gid][row.round] = row.began_at
    asked = await _tasks(session, rows)
    return [DeliveryHistory(row, made[row.gid], replays[row.gid], asked.get(row.gid)) for row in rows]


async def _tasks(session: AsyncSession, rows: Sequence[DeliveryRow]) -> dict[str, TaskRow]:
    """The tasks of those deliveries that go to inboxes."""
    gids = [row.gid for row in rows if row.mode is DeliveryMode.INBOX]
    if not gids:
        return {}
    columns = (col(getattr(Task, name)) for name in _OF_TASK)
    is_decided = (col(Task.state) == TaskState.DECIDED).label("is_decided")
    found = await session.execute(select(*columns, is_decided).where(col(Task.delivery_gid).in_(gids)))
    return {row.delivery_gid: TaskRow(**row._mapping) for row in found}


_OF_TASK = ("gid", "delivery_gid", "notes", "outcome", "decided_by", "decided_at")


@dataclass(frozen=True)
class DeliveryResponse:
    """A delivery and the response of its receiver: the body as stored, if it is JSON or may be. `outcome` is that of a
    decision."""

    delivery_gid: str
    endpoint_gid: str
    mode: DeliveryMode
    status: DeliveryStatus
    completed_at: datetime | None
    status_code: int | None = None
    body: bytes | None = None
    outcome: str | None = None

    @property
    def is_settled(self) -> bool:
        return self.status in SETTLED_STATUSES


async def delivery_responses(session: AsyncSession, message_gid: str, limit: int) -> Sequence[DeliveryResponse]:
    """The deliveries of a message with their responses, ordered by gid. The body is that of the attempt with the
    verdict `delivered`; a delivery that a person declined has such an attempt, too."""
    rows = await deliveries(session, message_gid, limit=limit)
    delivered = [row.gid for row in rows if row.status is DeliveryStatus.DELIVERED or _is_declined(row)]
    tasks = await _tasks(session, rows)
    bodies: dict[str, Any] = {}
    if delivered:
        found = await session.execute(
            select(col(Attempt.delivery_gid), col(Attempt.status_code), col(Attempt.response_body))
            .where(and_(col(Attempt.delivery_gid).in_(delivered), col(Attempt.verdict) == Verdict.DELIVERED))
            .order_by(col(Attempt.round))  # the last one counts
        )
        bodies = {row.delivery_gid: row for row in found}
    return [
        DeliveryResponse(
            row.gid,
            row.endpoint_gid,
            row.mode,
            row.status,
            row.dead_lettered_at if row.status is DeliveryStatus.DEAD_LETTERED else row.completed_at,
            bodies[row.gid].status_code if row.gid in bodies else None,
            bodies[row.gid].response_body if row.gid in bodies else None,
            tasks[row.gid].outcome if row.gid in tasks and tasks[row.gid].is_decided else None,
        )
        for row in rows
    ]


def _is_declined(row: DeliveryRow) -> bool:
    return row.status is DeliveryStatus.DISCARDED and row.reason is DeadLetterReason.DECLINED
