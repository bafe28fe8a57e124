"""Groups: the deliveries of an endpoint with the same `groupKey`, one at a time and in the order of their acceptance.

Each unsettled delivery of a group has a row in `grouped_delivery` with its position, and the one with the lowest
position is the head: it alone is sent. The row of the group in `delivery_group` is the lock of all changes, and counts
its open deliveries. Accepting a delivery takes a position; settling the head frees the next one, in the transaction
that settles it. Both cost the same however long the group is: the next head is searched from the position of the last
one on.

Rows are locked in this order: the delivery that is settled, the groups (sorted), the deliveries that are freed.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import DeadLetterReason, DeliveryMode, DeliveryStatus
from everhook.delivery.policy import resolve
from everhook.pulling.queue_store import enqueue, queue_row
from everhook.storage.statements import adding, insert_into, table_of
from everhook.storage.statements import insert as insert_for
from everhook.storage.tables import (
    Channel,
    Delivery,
    DeliveryGroup,
    DeliveryRound,
    Endpoint,
    GroupedDelivery,
    Message,
    OnGroupFailure,
    PastPolicy,
    now,
)

START_GRACE = timedelta(seconds=20)
"""The process that frees a delivery makes its first attempt, or starts its workflow. If neither is recorded this much
later than an attempt can take, the reconciler starts it. An attempt waits up to 10 s in the express lane."""

RECHECKED = 1_000

_GROUP, _GROUPED, _DELIVERY = table_of(DeliveryGroup), table_of(GroupedDelivery), table_of(Delivery)
_LOST_FOR_GOOD = frozenset({DeadLetterReason.ENDPOINT_DELETED, DeadLetterReason.PAYLOAD_ERASED})
"""No replay can deliver these, so they never block a group."""

Group = tuple[str, str]
"""The gid of an endpoint, and a key."""


def is_ordered(mode: DeliveryMode) -> bool:
    """Whether endpoints of a mode receive groups in order. People decide about their tasks in any order."""
    return mode is not DeliveryMode.INBOX


@dataclass(frozen=True)
class Positions:
    """The positions of new deliveries of a group, from `first` on. `is_free`: none is open before them."""

    first: int
    is_free: bool


async def take_positions(connection: AsyncConnection, counts: Mapping[Group, int]) -> dict[Group, Positions]:
    """Take positions for new deliveries, at the end of their groups, in the transaction that accepts them."""
    if not counts:
        return {}
    moment = now()
    rows = [
        {"endpoint_gid": endpoint, "group_key": key, "last": count, "open": count, "touched_at": moment}
        for (endpoint, key), count in sorted(counts.items())
    ]
    statement = adding(insert_for(connection.dialect.name, _GROUP), "last", "open")
    taken = await connection.execute(
        statement.returning(_GROUP.c.endpoint_gid, _GROUP.c.group_key, _GROUP.c.last, _GROUP.c.open), rows
    )
    return {
        (row.endpoint_gid, row.group_key): Positions(
            row.last - counts[row.endpoint_gid, row.group_key] + 1, row.open == counts[row.endpoint_gid, row.group_key]
        )
        for row in taken
    }


async def insert_grouped(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute(insert_into(GroupedDelivery), list(rows))


@dataclass(frozen=True)
class Freed:
    """A delivery whose turn it is. `needs_workflow`: it can only be dead-lettered."""

    delivery_gid: str
    message_gid: str
    endpoint_gid: str
    is_pulled: bool
    needs_workflow: bool


async def settle(connection: AsyncConnection, delivery_gids: Collection[str]) -> list[Freed]:
    """Take deliveries that are delivered, discarded or dead letters out of their groups, and free those that come next.
    Deliveries without a group are left alone. The last step of the transaction that settles them."""
    groups = sorted({(row.endpoint_gid, row.group_key) for row in await _grouped(connection, delivery_gids)})
    if not groups:
        return []
    await _lock(connection, groups)
    removed = await connection.execute(
        delete(_GROUPED)
        .where(_GROUPED.c.delivery_gid.in_(sorted(delivery_gids)))
        .returning(_GROUPED.c.endpoint_gid, _GROUPED.c.group_key, _GROUPED.c.position)
    )
    last: dict[Group, list[int]] = {}
    for row in removed:
        last.setdefault((row.endpoint_gid, row.group_key), []).append(row.position)
    return await _free(connection, [await _next(connection, group, positions) for group, positions in last.items()])


async def settle_dead_letter(connection: AsyncConnection, delivery_gid: str, reason: DeadLetterReason) -> list[Freed]:
    """The same for a dead letter, unless its endpoint wants it to hold its group."""
    if reason not in _LOST_FOR_GOOD and await _holds_its_group(connection, delivery_gid):
        return []
    return await settle(connection, [delivery_gid])


async def _holds_its_group(connection: AsyncConnection, delivery_gid: str) -> bool:
    """Whether the endpoint of a dead letter wants that, and a replay can still deliver it."""
    found = await connection.execute(
        select(_DELIVERY.c.gid)
        .join(Endpoint, col(Endpoint.gid) == _DELIVERY.c.endpoint_gid)
        .join(Message, col(Message.gid) == _DELIVERY.c.message_gid)
        .where(
            _DELIVERY.c.gid == delivery_gid,
            col(Endpoint.on_group_failure) == OnGroupFailure.BLOCK,
            col(Endpoint.deleted_at).is_(None),
            col(Message.payload).is_not(None),
        )
    )
    return found.one_or_none() is not None


async def _grouped(connection: AsyncConnection, delivery_gids: Collection[str]) -> Sequence[Any]:
    rows = await connection.execute(
        select(_GROUPED.c.endpoint_gid, _GROUPED.c.group_key).where(_GROUPED.c.delivery_gid.in_(sorted(delivery_gids)))
    )
    return rows.all()


async def _lock(connection: AsyncConnection, groups: Iterable[Group]) -> None:
    """Lock groups in the order in which `take_positions` does: by their bytes, in whichever language the database sorts
    by. In different orders two transactions would deadlock."""
    key = tuple_(_GROUP.c.endpoint_gid, _GROUP.c.group_key)
    by_bytes = "C" if connection.dialect.name == "postgresql" else "BINARY"
    await connection.execute(
        select(_GROUP.c.endpoint_gid)
        .where(key.in_(list(groups)))
        .order_by(_GROUP.c.endpoint_gid.collate(by_bytes), _GROUP.c.group_key.collate(by_bytes))
        .with_for_update()
    )


def _is(group: Group) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _GROUP.c.endpoint_gid == group[0], _GROUP.c.group_key == group[1]


async def _next(connection: AsyncConnection, group: Group, settled: Sequence[int]) -> str | None:
    """Count the settled ones off; the gid of the new head. A group without open deliveries is removed."""
    left = await connection.execute(
        update(_GROUP)
        .where(*_is(group))
        .values(open=_GROUP.c.open - len(settled), touched_at=now())
        .returning(_GROUP.c.open)
    )
    if left.scalar_one_or_none() in (0, None):
        await connection.execute(delete(_GROUP).where(*_is(group)))
        return None
    return await _head(connection, group, after=min(settled) - 1)


async def _head(connection: AsyncConnection, group: Group, after: int) -> str | None:
    found = await connection.execute(
        select(_GROUPED.c.delivery_gid)
        .where(
            _GROUPED.c.endpoint_gid == group[0],
            _GROUPED.c.group_key == group[1],
            _GROUPED.c.position > after,
        )
        .order_by(_GROUPED.c.position)
        .limit(1)
    )
    gid: str | None = found.scalar_one_or_none()
    return gid


_SINCE = select(literal(1)).where(col(PastPolicy.until) > _DELIVERY.c.accepted_at)
_HAS_NEW_POLICY = or_(
    _SINCE.where(col(PastPolicy.endpoint_gid) == _DELIVERY.c.endpoint_gid, col(PastPolicy.channel) == "").exists(),
    _SINCE.where(col(PastPolicy.endpoint_gid) == "", col(PastPolicy.channel) == _DELIVERY.c.channel).exists(),
)
"""The policy of its endpoint or channel has changed since a delivery was accepted. Its round begins with the new one,
so the time of its beginning is stored: see `delivery/policy_history_store.py`."""


async def _free(connection: AsyncConnection, heads: Iterable[str | None]) -> list[Freed]:
    """Free those of these deliveries that wait; their groups are locked."""
    gids = sorted(gid for gid in heads if gid is not None)
    if not gids:
        return []
    moment = now()
    rows = await connection.execute(
        select(
            _DELIVERY.c.gid,
            _DELIVERY.c.message_gid,
            _DELIVERY.c.endpoint_gid,
            col(Endpoint.mode),
            or_(col(Endpoint.deleted_at).is_not(None), col(Message.payload).is_(None)).label("is_lost"),
            col(Endpoint.policy).label("endpoint_policy"),
            col(Channel.policy).label("channel_policy"),
            _HAS_NEW_POLICY.label("has_new_policy"),
        )
        .join(Endpoint, col(Endpoint.gid) == _DELIVERY.c.endpoint_gid)
        .join(Message, col(Message.gid) == _DELIVERY.c.message_gid)
        .outerjoin(Channel, col(Channel.name) == _DELIVERY.c.channel)
        .where(_DELIVERY.c.gid.in_(gids), _DELIVERY.c.status == DeliveryStatus.QUEUED)
        .order_by(_DELIVERY.c.gid)
    )
    freed, changes, queued = list[Freed](), list[dict[str, Any]](), list[dict[str, Any]]()
    rounds = list[dict[str, Any]]()
    for row in rows:
        if row.has_new_policy:
            rounds.append({"delivery_gid": row.gid, "round": 1, "began_at": moment})
        is_pulled = row.mode.is_pulled
        policy = resolve(row.channel_policy, row.endpoint_policy)
        freed.append(Freed(row.gid, row.message_gid, row.endpoint_gid, is_pulled, is_pulled and row.is_lost))
        change = {
            "b_gid": row.gid,
            "b_status": DeliveryStatus.ACCEPTED,
            "b_due_at": moment + policy.timeout + START_GRACE,
            "b_dispatched_at": None,
        }
        if is_pulled:
            item = queue_row(row.gid, row.endpoint_gid, moment, policy)
            queued.append(item)
            change |= {
                "b_status": DeliveryStatus.AVAILABLE,
                "b_due_at": item["window_until"],
                "b_dispatched_at": moment,
            }
        changes.append(change)
    if changes:
        await connection.execute(_FREE, changes)
    if queued:
        await enqueue(connection, queued)
    if rounds:
        began = insert_for(connection.dialect.name, table_of(DeliveryRound))
        await connection.execute(
            began.on_conflict_do_update(
                index_elements=["delivery_gid", "round"], set_={"began_at": began.excluded.began_at}
            ),
            rounds,
        )
    return freed


_FREE = (
    update(_DELIVERY)
    .where(_DELIVERY.c.gid == bindparam("b_gid"))
    .values(
        status=bindparam("b_status", type_=_DELIVERY.c.status.type),
        due_at=bindparam("b_due_at", type_=_DELIVERY.c.due_at.type),
        dispatched_at=bindparam("b_dispatched_at", type_=_DELIVERY.c.dispatched_at.type),
    )
)


async def free_stalled(connection: AsyncConnection, before: datetime, limit: int) -> tuple[int, list[Freed]]:
    """Free the heads of groups in which nothing happened since a moment, where that is possible: one that waits, and
    one that is settled, such as a dead letter after its endpoint was changed to go on. Returns how many groups were
    checked, and what was freed.

    Settling a delivery frees the next one, so this finds something only after such a change, or a fault. It takes four
    statements, and others only for what it frees.
    """
    stalled = await connection.execute(
        select(_GROUP.c.endpoint_gid, _GROUP.c.group_key)
        .where(_GROUP.c.touched_at < before)
        .order_by(_GROUP.c.touched_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    groups = [(row.endpoint_gid, row.group_key) for row in stalled]
    if not groups:
        return 0, []
    those = tuple_(_GROUP.c.endpoint_gid, _GROUP.c.group_key).in_(groups)
    await connection.execute(update(_GROUP).where(those).values(touched_at=now()))
    heads = (await connection.execute(_HEADS.where(those))).all()
    found = await connection.execute(
        select(_DELIVERY.c.gid, _DELIVERY.c.status, _DELIVERY.c.reason).where(
            _DELIVERY.c.gid.in_(sorted(row.head for row in heads if row.head is not None))
        )
    )
    deliveries = {row.gid: row for row in found}
    freed: list[Freed] = []
    for row in sorted(heads, key=lambda row: (row.endpoint_gid, row.group_key)):
        if row.head is None:
            await connection.execute(delete(_GROUP).where(*_is((row.endpoint_gid, row.group_key))))
        else:
            freed += await _free_stalled_head(connection, row.head, deliveries.get(row.head))
    return len(groups), freed


_HEADS = select(
    _GROUP.c.endpoint_gid,
    _GROUP.c.group_key,
    select(_GROUPED.c.delivery_gid)
    .where(_GROUPED.c.endpoint_gid == _GROUP.c.endpoint_gid, _GROUPED.c.group_key == _GROUP.c.group_key)
    .order_by(_GROUPED.c.position)
    .limit(1)
    .scalar_subquery()
    .label("head"),
)


async def _free_stalled_head(connection: AsyncConnection, head: str, delivery: Any | None) -> list[Freed]:
    if delivery is None or delivery.status in (DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED):
        return await settle(connection, [head])
    if delivery.status is DeliveryStatus.DEAD_LETTERED:
        return await settle_dead_letter(connection, head, delivery.reason)
    return await _free(connection, [head]) if delivery.status is DeliveryStatus.QUEUED else []


async def recheck_groups(connection: AsyncConnection, endpoint_gid: str) -> None:
    """Have the next pass of the reconciler check groups of an endpoint. Those that are locked are in progress; those
    beyond `RECHECKED` are checked when nothing happens in them."""
    keys = await connection.execute(
        select(_GROUP.c.group_key)
        .where(_GROUP.c.endpoint_gid == endpoint_gid)
        .limit(RECHECKED)
        .with_for_update(skip_locked=True)
    )
    await connection.execute(
        update(_GROUP)
        .where(_GROUP.c.endpoint_gid == endpoint_gid, _GROUP.c.group_key.in_(list(keys.scalars())))
        .values(touched_at=now() - timedelta(days=1))
    )
