"""The backlog: what waits and what is stuck at this moment, counted by indexes that hold nothing else.

Counts stop at `COUNT_AT_MOST`: beyond that the exact number does not matter, and the query stays cheap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, String, case, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.delivery.store import IS_UNDISPATCHED
from everhook.ids import moment_of
from everhook.inbox.store import IS_OPEN
from everhook.storage.statements import table_of
from everhook.storage.tables import CircuitRow, Delivery, Endpoint, PullItem, Task, now

COUNT_AT_MOST = 100_000

LATE = timedelta(minutes=1)
"""Workers take a step within milliseconds of its time. A step that is this late waits for a worker, for Temporal, or
for its turn at an endpoint with a rate limit."""


def has_status(status: DeliveryStatus) -> ColumnElement[bool]:
    """The status as a literal in the statement: the planner uses a partial index only if it sees the value."""
    return col(Delivery.status) == literal(status, type_=table_of(Delivery).c.status.type, literal_execute=True)


PARKED = has_status(DeliveryStatus.PARKED)
DEAD = has_status(DeliveryStatus.DEAD_LETTERED)


@dataclass(frozen=True)
class Waiting:
    """How many deliveries wait, and when the oldest was accepted."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True)
class PullBacklog:
    """Deliveries in queues: how many are `available`, `waiting` for their next attempt, and `leased`. `oldest` is when
    the oldest available one was queued."""

    counts: Mapping[str, int]
    oldest: datetime | None


@dataclass(frozen=True)
class TaskBacklog:
    """Open tasks of all inboxes, and how many of them are past their due date: their timers are late."""

    open: int = 0
    overdue: int = 0


@dataclass(frozen=True)
class Backlog:
    """`circuits` counts endpoints by `closed`, `open` and `half_open`, or by `paused` and `disabled` if they are
    held."""

    undispatched: Waiting
    overdue: Waiting
    parked: Waiting
    dead_letters: Mapping[DeadLetterReason, int]
    circuits: Mapping[str, int]
    pulls: PullBacklog
    tasks: TaskBacklog

    @property
    def dead_letter_count(self) -> int:
        return sum(self.dead_letters.values())


async def backlog(session: AsyncSession, tenant_gid: str | None = None) -> Backlog:
    """The backlog of one tenant, or of all."""
    return Backlog(
        undispatched=await waiting(session, IS_UNDISPATCHED, tenant_gid),
        overdue=await waiting(session, col(Delivery.due_at) < now() - LATE, tenant_gid),
        parked=await waiting(session, PARKED, tenant_gid),
        dead_letters=await dead_letters(session, tenant_gid),
        circuits=await circuits(session, tenant_gid),
        pulls=await pulls(session, tenant_gid),
        tasks=TaskBacklog(
            open=await count_tasks(session, tenant_gid),
            overdue=await count_tasks(session, tenant_gid, due_before=now()),
        ),
    )


async def waiting(session: AsyncSession, condition: ColumnElement[bool], tenant_gid: str | None = None) -> Waiting:
    found = _of(select(col(Delivery.gid)).where(condition), Delivery, tenant_gid).limit(COUNT_AT_MOST).subquery()
    row = (await session.execute(select(func.count(), func.min(found.c.gid)))).one()
    return Waiting(row[0], moment_of(row[1]) if row[1] is not None else None)


async def dead_letters(session: AsyncSession, tenant_gid: str | None = None) -> Mapping[DeadLetterReason, int]:
    """How many dead letters, by reason; the most frequent first."""
    found = _of(select(col(Delivery.reason)).where(DEAD), Delivery, tenant_gid).limit(COUNT_AT_MOST).subquery()
    number = func.count()
    rows = await session.execute(select(found.c.reason, number).group_by(found.c.reason).order_by(number.desc()))
    return {row[0]: row[1] for row in rows}


async def pulls(session: AsyncSession, tenant_gid: str | None = None) -> PullBacklog:
    """The queues of all endpoints together: of the deliveries that were accepted first, up to `COUNT_AT_MOST`."""
    item = PullItem
    state = case(
        (col(item.consumer).is_not(None), "leased"), (col(item.available_at) <= now(), "available"), else_="waiting"
    ).label("state")
    statement = select(state, col(item.queued_at))
    if tenant_gid is not None:
        owned = select(col(Endpoint.gid)).where(col(Endpoint.tenant_gid) == tenant_gid)
        statement = statement.where(col(item.endpoint_gid).in_(owned))
    found = statement.order_by(col(item.delivery_gid)).limit(COUNT_AT_MOST).subquery()
    rows = await session.execute(
        select(found.c.state, func.count(), func.min(found.c.queued_at)).group_by(found.c.state)
    )
    by_state = {row[0]: (row[1], row[2]) for row in rows}
    return PullBacklog(
        {name: by_state.get(name, (0, None))[0] for name in ("available", "waiting", "leased")},
        by_state.get("available", (0, None))[1],
    )


async def count_tasks(
    session: AsyncSession, tenant_gid: str | None = None, *, due_before: datetime | None = None
) -> int:
    """How many tasks wait for a decision; with `due_before`, those that were due by then."""
    statement = select(col(Task.gid)).where(IS_OPEN)
    if due_before is not None:
        statement = statement.where(col(Task.due_at) <= due_before)
    if tenant_gid is not None:
        statement = statement.where(col(Task.tenant_gid) == tenant_gid)
    found = statement.limit(COUNT_AT_MOST).subquery()
    return int((await session.execute(select(func.count()).select_from(found))).scalar_one())


async def circuits(session: AsyncSession, tenant_gid: str | None = None) -> Mapping[str, int]:
    """How many endpoints are in each state. They are all counted, because their number does not grow with traffic."""
    shown = func.coalesce(cast(col(CircuitRow.hold), String), cast(col(CircuitRow.state), String)).label("shown")
    statement = (
        select(shown, func.count())
        .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
        .where(col(Endpoint.deleted_at).is_(None))
        .group_by(shown.name)
    )
    rows = await session.execute(_of(statement, Endpoint, tenant_gid))
    return {row[0]: row[1] for row in rows}


def _of(statement: Any, model: type[Delivery] | type[Endpoint], tenant_gid: str | None) -> Any:
    return statement if tenant_gid is None else statement.where(col(model.tenant_gid) == tenant_gid)
