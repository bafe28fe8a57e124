"""The pull queue in the database. What can be handed out is decided by state, not by a position: there is no cursor
that would skip rows that commit late.

Rows are locked in this order: queue, then delivery. PostgreSQL's clock decides about leases, so that processes with
different clocks agree.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.delivery.policy import DeliveryPolicy, one_attempt, resolve
from everhook.pulling.leases import Content, consumer_name
from everhook.storage.statements import insert_ignoring, insert_into, lock, table_of
from everhook.storage.tables import (
    Attempt,
    Channel,
    CircuitRow,
    Delivery,
    Endpoint,
    GroupedDelivery,
    Message,
    PendingHistory,
    PullItem,
    Tenant,
    now,
)

_QUEUE = table_of(PullItem)


def queue_row(delivery_gid: str, endpoint_gid: str, moment: datetime, policy: DeliveryPolicy) -> dict[str, Any]:
    """The row of a delivery that was just accepted."""
    return {
        "delivery_gid": delivery_gid,
        "endpoint_gid": endpoint_gid,
        "round": 1,
        "number": 0,
        "queued_at": moment,
        "available_at": moment,
        "window_until": moment + policy.max_window,
        "is_last": False,
        # Those of a lease: none yet. They are named, because all rows of one INSERT have the same columns.
        "leased_at": None,
        "lease_until": None,
        "consumer": None,
        "consumer_address": None,
        "position": None,
        "item_sha256": None,
    }


async def enqueue(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows of accepted deliveries, in the transaction that accepts them."""
    await connection.execute(insert_into(PullItem), rows)


async def requeue(session: AsyncSession, delivery_gid: str) -> None:
    """Insert the row of a delivery whose next round was opened. Its workflow runs. Does nothing for a delivery that no
    consumer pulls."""
    found = await session.execute(
        select(Delivery, col(Channel.policy), col(Endpoint.policy), col(Endpoint.mode))
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .outerjoin(Channel, col(Channel.name) == col(Delivery.channel))
        .where(col(Delivery.gid) == delivery_gid)
    )
    delivery, channel_policy, endpoint_policy, mode = found.one()
    if not mode.is_pulled:
        return
    moment = now()
    row = queue_row(delivery.gid, delivery.endpoint_gid, moment, resolve(channel_policy, endpoint_policy))
    row |= {"round": delivery.round, "guarded_at": moment}
    connection = await session.connection()
    await connection.execute(insert_ignoring(connection, PullItem, "delivery_gid"), [row])
    delivery.status, delivery.due_at = DeliveryStatus.AVAILABLE, row["window_until"]
    session.add(delivery)


async def database_time(connection: AsyncConnection) -> datetime:
    """The time by the clock that decides about leases. An SQLite database has that of its machine."""
    if connection.dialect.name == "sqlite":
        return now()
    moment: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return moment


async def next_available(connection: AsyncConnection, endpoint_gid: str) -> tuple[datetime, datetime | None]:
    """The time, and when the next delivery of an endpoint is, or was, available."""
    if connection.dialect.name == "sqlite":
        return now(), (await connection.execute(_NEXT, {"endpoint": endpoint_gid})).scalar()
    row = (await connection.execute(_NEXT_WITH_TIME, {"endpoint": endpoint_gid})).one()
    return row[0], row[1]


_NEXT: Select[datetime] = (
    select(col(PullItem.available_at))
    .where(col(PullItem.endpoint_gid) == bindparam("endpoint"), col(PullItem.is_last).is_(False))
    .order_by(col(PullItem.available_at))
    .limit(1)
)
_NEXT_WITH_TIME = select(func.clock_timestamp(), _NEXT.scalar_subquery())


async def with_available(connection: AsyncConnection, endpoint_gids: Sequence[str]) -> list[str]:
    """Those of these endpoints that have a delivery to hand out now."""
    due = exists().where(
        col(PullItem.endpoint_gid) == col(Endpoint.gid),
        col(PullItem.available_at) <= await database_time(connection),
        col(PullItem.is_last).is_(False),
    )
    rows = await connection.execute(select(col(Endpoint.gid)).where(col(Endpoint.gid).in_(endpoint_gids), due))
    return list(rows.scalars())


@dataclass(frozen=True)
class Claimable:
    """A locked delivery that can be handed out. `size` is that of its payload, in bytes. `is_guarded`: it has a
    workflow."""

    delivery_gid: str
    round: int
    number: int
    message_gid: str
    policy: DeliveryPolicy
    size: int
    is_guarded: bool


async def lock_claimable(
    connection: AsyncConnection, endpoint_gid: str, moment: datetime, limit: int
) -> list[Claimable]:
    """Lock up to `limit` deliveries that can be handed out, the longest available first. Those that another claim has
    locked are skipped."""
    rows = await connection.execute(_CLAIMABLE, {"endpoint": endpoint_gid, "moment": moment, "rows": limit})
    return [
        Claimable(
            row.delivery_gid,
            row.round,
            row.number,
            row.message_gid,
            _policy(row),
            row.size,
            row.guarded_at is not None,
        )
        for row in rows
    ]


def _policy(row: Any) -> DeliveryPolicy:
    policy = resolve(row.channel_policy, row.endpoint_policy)
    return one_attempt(policy) if row.single_attempt else policy


_MOMENT = bindparam("moment", type_=_QUEUE.c.available_at.type)
_POLICY = select(col(Endpoint.policy)).where(col(Endpoint.gid) == bindparam("endpoint")).scalar_subquery()
"""Not a join: SQLite would begin with a small table of endpoints, and sort the whole queue."""

_CLAIMABLE = (
    select(
        col(PullItem.delivery_gid),
        col(PullItem.round),
        col(PullItem.number),
        col(PullItem.guarded_at),
        col(Delivery.message_gid),
        col(Delivery.single_attempt),
        col(Channel.policy).label("channel_policy"),
        _POLICY.label("endpoint_policy"),
        func.length(col(Message.payload)).label("size"),
    )
    .join(Delivery, col(Delivery.gid) == col(PullItem.delivery_gid))
    .join(Message, col(Message.gid) == col(Delivery.message_gid))
    .outerjoin(Channel, col(Channel.name) == col(Delivery.channel))
    .where(
        col(PullItem.endpoint_gid) == bindparam("endpoint"),
        col(PullItem.available_at) <= _MOMENT,
        col(PullItem.is_last).is_(False),
        col(PullItem.window_until) > _MOMENT,
        col(PullItem.consumer).is_(None),
        col(Message.payload).is_not(None),
    )
    .order_by(col(PullItem.available_at))
    .limit(bindparam("rows"))
    .with_for_update(of=_QUEUE, skip_locked=True)
)


async def contents(connection: AsyncConnection, message_gids: Iterable[str]) -> dict[str, Content]:
    """The messages of items, by gid. One whose payload was erased is left out."""
    rows = await connection.execute(
        select(
            col(Message.gid),
            col(Message.channel),
            col(Message.event_type),
            col(Message.payload),
            col(Message.published_at),
            col(Message.attributes),
        ).where(col(Message.gid).in_(set(message_gids)), col(Message.payload).is_not(None))
    )
    return {
        row.gid: Content(row.gid, row.channel, row.event_type, row.payload or b"", row.published_at, row.attributes)
        for row in rows
    }


async def lock_leases(connection: AsyncConnection, endpoint_gid: str) -> None:
    """Until the transaction ends, no other one that calls this hands out deliveries of an endpoint."""
    await lock(connection, "leases", endpoint_gid)


async def count_leased(connection: AsyncConnection, endpoint_gid: str, at_most: int) -> int:
    """How many leases of an endpoint are open, counted up to `at_most`."""
    return int((await connection.execute(_LEASED, {"endpoint": endpoint_gid, "at_most": at_most})).scalar_one())


# Statements of each hand-out and each acknowledgement are built once: to build one takes as long as to execute it.
_LEASED = select(func.count()).select_from(
    select(_QUEUE.c.delivery_gid)
    .where(_QUEUE.c.endpoint_gid == bindparam("endpoint"), _QUEUE.c.consumer.is_not(None))
    .limit(bindparam("at_most"))
    .subquery()
)


async def held_by(connection: AsyncConnection, endpoint_gid: str, consumer: str) -> set[str]:
    """The deliveries for which a consumer has a lease that did not expire."""
    moment = now() if connection.dialect.name == "sqlite" else func.clock_timestamp()
    held = select(col(PullItem.delivery_gid)).where(
        col(PullItem.endpoint_gid) == endpoint_gid,
        col(PullItem.consumer) == consumer,
        col(PullItem.lease_until) > moment,
    )
    return set((await connection.execute(held)).scalars())


@dataclass(frozen=True)
class QueueRow:
    """A row of the queue. `is_grouped`: others may wait for the delivery."""

    delivery_gid: str
    round: int
    number: int
    available_at: datetime
    window_until: datetime
    guarded_at: datetime | None
    leased_at: datetime | None
    lease_until: datetime | None
    consumer: str | None
    consumer_address: str | None
    position: int | None
    item_sha256: str | None
    is_last: bool
    is_grouped: bool

    @property
    def is_leased(self) -> bool:
        """Whether a lease was handed out whose end is not recorded."""
        return self.consumer is not None

    @property
    def is_round_over(self) -> bool:
        """Whether the last attempt is recorded, without success: the workflow is about to dead-letter the delivery."""
        return self.is_last and not self.is_leased

    def ends_round(self, moment: datetime) -> bool:
        """Whether nothing follows if this lease has expired by `moment`: no attempt is left, or the next one would be
        after the window."""
        return self.is_last or max(self.available_at, moment) >= self.window_until

    @property
    def newest_number(self) -> int:
        """The highest number that a lease of the round can have had: a release gives its number back."""
        return self.number if self.is_leased else self.number + 1


_COLUMNS = (
    *(col(getattr(PullItem, name)) for name in QueueRow.__dataclass_fields__ if name != "is_grouped"),
    exists().where(col(GroupedDelivery.delivery_gid) == col(PullItem.delivery_gid)),
)


async def lock_expired(connection: AsyncConnection, endpoint_gid: str, moment: datetime, limit: int) -> list[QueueRow]:
    """Lock rows of an endpoint whose lease expired, the longest expired first."""
    rows = await connection.execute(
        select(*_COLUMNS)
        .where(
            col(PullItem.endpoint_gid) == endpoint_gid,
            col(PullItem.consumer).is_not(None),
            col(PullItem.lease_until) <= moment,
        )
        .order_by(col(PullItem.lease_until))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [QueueRow(*row) for row in rows]


async def rows_of(connection: AsyncConnection, endpoint_gid: str, delivery_gids: Iterable[str]) -> dict[str, QueueRow]:
    """The rows of those of these deliveries that an endpoint has."""
    return await _read(connection, _OF_ENDPOINT, endpoint_gid, delivery_gids)


async def lock_rows(
    connection: AsyncConnection, endpoint_gid: str | None, delivery_gids: Iterable[str]
) -> dict[str, QueueRow]:
    """Lock the rows of these deliveries, in sorted order so that two callers cannot deadlock. `endpoint_gid`: only
    those of this endpoint."""
    statement = _LOCKED if endpoint_gid is None else _LOCKED_OF_ENDPOINT
    return await _read(connection, statement, endpoint_gid, delivery_gids)


async def _read(
    connection: AsyncConnection, statement: Any, endpoint_gid: str | None, delivery_gids: Iterable[str]
) -> dict[str, QueueRow]:
    rows = await connection.execute(statement, {"gids": sorted(set(delivery_gids)), "endpoint": endpoint_gid})
    return {row.delivery_gid: QueueRow(*row) for row in rows}


_ROWS = (
    select(*_COLUMNS)
    .where(_QUEUE.c.delivery_gid.in_(bindparam("gids", expanding=True)))
    .order_by(_QUEUE.c.delivery_gid)
)
_OF_ENDPOINT = _ROWS.where(_QUEUE.c.endpoint_gid == bindparam("endpoint"))
_LOCKED, _LOCKED_OF_ENDPOINT = _ROWS.with_for_update(), _OF_ENDPOINT.with_for_update()


async def lock_consumer(
    connection: AsyncConnection, endpoint_gid: str, consumer: str, after: int, up_to: int | None = None
) -> list[QueueRow]:
    """Lock the leases of one stream after a position in it, up to another."""
    statement = select(*_COLUMNS).where(
        col(PullItem.endpoint_gid) == endpoint_gid,
        col(PullItem.consumer).is_not(None),  # as the index of leases has it
        col(PullItem.consumer).startswith(f"{consumer} ", autoescape=True),
        col(PullItem.position) > after,
    )
    if up_to is not None:
        statement = statement.where(col(PullItem.position) <= up_to)
    rows = await connection.execute(statement.order_by(col(PullItem.delivery_gid)).with_for_update())
    return [QueueRow(*row) for row in rows]


async def lease(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store leases; the rows must be locked."""
    await connection.execute(_LEASE, [_bound(row) for row in rows])


async def change(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store that leases ended or were extended; the rows must be locked."""
    if rows:
        await connection.execute(_CHANGE, [_bound(row) for row in rows])


def changed(row: QueueRow, **changes: Any) -> dict[str, Any]:
    """A row for `change`."""
    names = ("delivery_gid", "number", "available_at", "lease_until", "consumer", "is_last", "guarded_at")
    return {name: getattr(row, name) for name in names} | changes


def _bound(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"b_{name}": value for name, value in row.items()}


def _update(*names: str) -> Any:
    values = {name: bindparam(f"b_{name}", type_=_QUEUE.c[name].type) for name in names}
    return update(_QUEUE).where(_QUEUE.c.delivery_gid == bindparam("b_delivery_gid")).values(values)


_LEASE = _update(
    "number",
    "available_at",
    "leased_at",
    "lease_until",
    "consumer",
    "consumer_address",
    "position",
    "item_sha256",
    "is_last",
)
_CHANGE = _update("number", "available_at", "lease_until", "consumer", "is_last", "guarded_at")


async def remove(connection: AsyncConnection, delivery_gids: Iterable[str]) -> None:
    """Remove deliveries that are over from the queue."""
    if gids := list(set(delivery_gids)):
        await connection.execute(_REMOVE, {"gids": gids})


_REMOVE = delete(_QUEUE).where(_QUEUE.c.delivery_gid.in_(bindparam("gids", expanding=True)))


async def withdraw(session: AsyncSession, delivery_gid: str) -> None:
    """Remove a delivery that is discarded. It comes before the change of the delivery: see the order of locks."""
    await session.execute(delete(PullItem).where(col(PullItem.delivery_gid) == delivery_gid))


async def expect_signal(connection: AsyncConnection, delivery_gids: Sequence[str], moment: datetime) -> None:
    """Remember, in the caller's transaction, that the workflows of these deliveries have to check the database."""
    rows = [{"delivery_gid": gid, "settled_at": moment, "signal": True} for gid in delivery_gids]
    if rows:
        await connection.execute(insert_ignoring(connection, PendingHistory, "delivery_gid"), rows)


async def statuses(
    connection: AsyncConnection, endpoint_gid: str, delivery_gids: Iterable[str]
) -> dict[str, DeliveryStatus]:
    """The statuses of those of these deliveries that an endpoint has."""
    if not (gids := set(delivery_gids)):
        return {}
    rows = await connection.execute(
        select(col(Delivery.gid), col(Delivery.status)).where(
            col(Delivery.gid).in_(gids), col(Delivery.endpoint_gid) == endpoint_gid
        )
    )
    return {row.gid: row.status for row in rows}


async def unguarded(connection: AsyncConnection, before: datetime, limit: int) -> list[str]:
    """Deliveries that were queued before a moment and have no workflow yet, the oldest first."""
    rows = await connection.execute(
        select(col(PullItem.delivery_gid))
        .where(col(PullItem.guarded_at).is_(None), col(PullItem.queued_at) < before)
        .order_by(col(PullItem.queued_at))
        .limit(limit)
    )
    return list(rows.scalars())


async def mark_guarded(connection: AsyncConnection, delivery_gids: Sequence[str]) -> set[str]:
    """Mark deliveries before their workflows start: an acknowledgement either sees the mark, and signals, or came
    first. Returns those that are still queued."""
    locked = await connection.execute(  # in the order of acknowledgements: an UPDATE locks as it finds the rows
        select(col(PullItem.delivery_gid))
        .where(col(PullItem.delivery_gid).in_(delivery_gids), col(PullItem.guarded_at).is_(None))
        .order_by(col(PullItem.delivery_gid))
        .with_for_update()
    )
    marked = list(locked.scalars())
    await connection.execute(update(PullItem).where(col(PullItem.delivery_gid).in_(marked)).values(guarded_at=now()))
    return set(marked)


async def queued_of(connection: AsyncConnection, endpoint_gid: str, limit: int) -> list[str]:
    """Deliveries of an endpoint that can still be handed out, the soonest available first."""
    rows = await connection.execute(
        select(col(PullItem.delivery_gid))
        .where(col(PullItem.endpoint_gid) == endpoint_gid, col(PullItem.is_last).is_(False))
        .order_by(col(PullItem.available_at))
        .limit(limit)
    )
    return list(rows.scalars())


async def close_rounds(connection: AsyncConnection, delivery_gids: Sequence[str]) -> None:
    """Hand these deliveries out no more. Their workflows dead-letter them."""
    if delivery_gids:
        rows = [{"b_delivery_gid": gid, "b_is_last": True} for gid in sorted(delivery_gids)]
        await connection.execute(_update("is_last"), rows)


async def back_offs(session: AsyncSession, delivery_gids: Collection[str]) -> dict[str, datetime]:
    """When each of these deliveries can be handed out again, of those that wait for their next attempt."""
    if not delivery_gids:
        return {}
    rows = await session.execute(
        select(col(PullItem.delivery_gid), col(PullItem.available_at)).where(
            col(PullItem.delivery_gid).in_(delivery_gids),
            col(PullItem.consumer).is_(None),
            col(PullItem.is_last).is_(False),
            col(PullItem.available_at) > now(),
        )
    )
    return {row.delivery_gid: row.available_at for row in rows}


async def make_available(session: AsyncSession, delivery_gid: str) -> bool:
    """End the back-off of a delivery. False if it is leased, or not queued."""
    found = await session.execute(
        update(PullItem)
        .where(col(PullItem.delivery_gid) == delivery_gid, col(PullItem.consumer).is_(None))
        .values(available_at=now())
        .returning(col(PullItem.delivery_gid))
    )
    return found.scalar_one_or_none() is not None


@dataclass(frozen=True)
class PulledDelivery:
    """What decides whether the round of a pulled delivery is over, apart from its row in the queue. `attempt` is the
    last one of the round."""

    status: DeliveryStatus
    attempts: int
    reason: DeadLetterReason | None
    dead_lettered_at: datetime | None
    endpoint_gid: str
    tenant_gid: str
    tenant: str
    endpoint_deleted: bool
    payload_erased: bool
    state: CircuitState
    hold: Hold | None
    attempt: Attempt | None


async def pulled_delivery(session: AsyncSession, delivery_gid: str) -> PulledDelivery | None:
    """None if there is no such delivery."""
    last = (
        (col(Attempt.delivery_gid) == col(Delivery.gid))
        & (col(Attempt.round) == col(Delivery.round))
        & (col(Attempt.number) == col(Delivery.attempts))
    )
    found = await session.execute(
        select(
            Delivery,
            col(Endpoint.deleted_at).is_not(None).label("deleted"),
            col(Message.payload).is_(None).label("erased"),
            col(CircuitRow.state),
            col(CircuitRow.hold),
            Attempt,
            col(Tenant.name),
        )
        .join(Tenant, col(Tenant.gid) == col(Delivery.tenant_gid))
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Delivery.endpoint_gid))
        .join(Message, col(Message.gid) == col(Delivery.message_gid))
        .outerjoin(Attempt, last)
        .where(col(Delivery.gid) == delivery_gid)
        .execution_options(populate_existing=True)
    )
    row = found.one_or_none()
    if row is None:
        return None
    delivery, deleted, erased, state, hold, attempt, tenant = row
    return PulledDelivery(
        delivery.status,
        delivery.attempts,
        delivery.reason,
        delivery.dead_lettered_at,
        delivery.endpoint_gid,
        delivery.tenant_gid,
        tenant,
        deleted,
        erased,
        state,
        hold,
        attempt,
    )


@dataclass(frozen=True)
class Consumer:
    """A consumer that holds leases. `since` is when it was handed out the oldest of them."""

    name: str
    address: str | None
    since: datetime
    in_flight: int


@dataclass(frozen=True)
class QueueView:
    """The queue of an endpoint: how many deliveries are `available`, `waiting` for their next attempt, and `leased`.
    `oldest` is when the oldest of the first `COUNTED` of them was queued."""

    available: int
    waiting: int
    leased: int
    oldest: datetime | None
    consumers: Sequence[Consumer]


COUNTED = 100_000


async def queue_view(session: AsyncSession, endpoint_gid: str) -> QueueView:
    """Each number is counted up to `COUNTED`."""
    moment = await database_time(await session.connection())
    mine = col(PullItem.endpoint_gid) == endpoint_gid
    free = [mine, col(PullItem.consumer).is_(None)]
    consumers = await session.execute(
        select(
            col(PullItem.consumer),
            func.max(col(PullItem.consumer_address)),
            func.min(col(PullItem.leased_at)),
            func.count(),
        )
        .where(mine, col(PullItem.consumer).is_not(None))
        .group_by(col(PullItem.consumer))
        .order_by(col(PullItem.consumer))
    )
    found = [Consumer(consumer_name(row[0] or ""), row[1], row[2] or moment, int(row[3])) for row in consumers]
    return QueueView(
        available=await _count(session, *free, col(PullItem.available_at) <= moment),
        waiting=await _count(session, *free, col(PullItem.available_at) > moment),
        leased=sum(each.in_flight for each in found),
        oldest=await _oldest(session, endpoint_gid),
        consumers=found,
    )


async def _oldest(session: AsyncSession, endpoint_gid: str) -> datetime | None:
    first = (
        select(col(PullItem.queued_at))
        .where(col(PullItem.endpoint_gid) == endpoint_gid)
        .order_by(col(PullItem.available_at))
        .limit(COUNTED)
        .subquery()
    )
    oldest: datetime | None = (await session.execute(select(func.min(first.c.queued_at)))).scalar()
    return oldest


async def _count(session: AsyncSession, *where: ColumnElement[bool]) -> int:
    rows = select(col(PullItem.delivery_gid)).where(*where).limit(COUNTED).subquery()
    return int((await session.execute(select(func.count()).select_from(rows))).scalar_one())
