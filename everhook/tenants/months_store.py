"""Retention by month, on PostgreSQL: drops the partitions whose deliveries ended long ago.

What must stay longer, because a delivery of its message is open or ended later, is copied into the first partition. If
that is more than `KEPT` messages, the month stays until it is less.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exists, or_, select
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES
from everhook.ids import Kind, first_gid_at, moment_of
from everhook.storage.bulk import Bulk
from everhook.storage.paging import WRITTEN_WITHIN
from everhook.storage.partition_upkeep import change_partitions
from everhook.storage.partitions import (
    Partition,
    analyze,
    drop,
    drop_months,
    dropped,
    partitions_of,
    roll_over,
)
from everhook.storage.tables import Delivery, DeliveryRound, Gate, Message, MessageKey, Task, TaskDecision, now

KEPT = 2_000
"""How many messages are copied under a lock at most, which takes about ten milliseconds."""

DAY = timedelta(days=1)

_OVER = ", ".join(f"'{status}'" for status in sorted(TERMINAL_STATUSES))

_KEPT_ROWS: Mapping[str, str] = {
    "attempt": "delivery_gid IN (SELECT gid FROM delivery WHERE message_gid = ANY(:kept))",
    "delivery": f"message_gid = ANY(:kept) OR status NOT IN ({_OVER}) OR completed_at >= :before",
    "message": "gid IN (SELECT message_gid FROM delivery WHERE message_gid < :upper "
    "UNION ALL SELECT message_gid FROM scheduled_message WHERE message_gid < :upper)",
}
"""The condition of the rows that stay, by table, in the order in which partitions are replaced. Each condition reads
tables that are replaced later, or, for messages, the deliveries that were kept. Deliveries that are open, or ended
`before` or later, stay, also those that a replay has opened since `kept` was computed: the conditions are evaluated
under the locks."""


@dataclass(frozen=True)
class Months:
    """`removed`: about how many messages were dropped. `first_end`: the end of the first partition of messages; None
    if they are not partitioned, or the partition is the only one."""

    removed: int = 0
    first_end: datetime | None = None


async def apply_to_months(bulk: Bulk, before: datetime | None) -> Months:
    """Create partitions ahead, and drop those whose deliveries all ended before a moment. `before` None: drop none."""
    if bulk.database.is_sqlite:
        return Months()
    heartbeat = bulk.heartbeat
    await change_partitions(bulk.database, lambda connection: roll_over(connection, now()), heartbeat)
    removed = 0
    if before is not None:
        await _finish(bulk)
        for table, condition in _KEPT_ROWS.items():
            removed = await _drop_months(bulk, table, condition, before)
        await _finish(bulk)
    months = await _partitions(bulk, "message")
    end = months[0].upper if months else None
    return Months(removed, moment_of(end) if end is not None else None)


async def _drop_months(bulk: Bulk, table: str, condition: str, before: datetime) -> int:
    kind = Kind.MESSAGE if table == "message" else Kind.DELIVERY
    past = first_gid_at(kind, before - WRITTEN_WITHIN)
    months = [each for each in await _partitions(bulk, table) if each.upper is not None and each.upper <= past]
    if [each.name for each in months] in ([], [f"{table}_past"]):
        return 0
    if table == "message" and not await _deliveries_are_dropped(bulk, months[-1]):
        return 0
    kept = await _unfinished(bulk, moment_of(str(months[-1].upper)), before) if table != "message" else []
    if len(kept) > KEPT:
        return 0
    values: dict[str, Any] = {"upper": months[-1].upper} if table == "message" else {"kept": kept, "before": before}

    def change(connection: sa.Connection) -> int:
        return drop_months(connection, table, months, condition, values)

    return await change_partitions(bulk.database, change, bulk.heartbeat) or 0


async def _deliveries_are_dropped(bulk: Bulk, month: Partition) -> bool:
    first = (await _partitions(bulk, "delivery"))[0]
    return first.upper is not None and moment_of(first.upper) >= moment_of(str(month.upper))


async def _unfinished(bulk: Bulk, end: datetime, before: datetime) -> list[str]:
    """Messages with a delivery from before `end` that is open, or that ended at `before` or later. Day by day, and no
    further than `KEPT`."""
    key = col(Delivery.gid)
    [oldest] = await bulk.find(select(sa.func.min(key)))
    found: set[str] = set()
    statement = select(col(Delivery.message_gid)).distinct()
    start = moment_of(oldest) if oldest is not None else end
    in_progress = or_(col(Delivery.status).not_in(TERMINAL_STATUSES), col(Delivery.completed_at) >= before)
    while start < end + WRITTEN_WITHIN and len(found) <= KEPT:
        until = min(start + DAY, end + WRITTEN_WITHIN)
        of_day = (key >= first_gid_at(Kind.DELIVERY, start), key < first_gid_at(Kind.DELIVERY, until))
        found.update(await bulk.find(statement.where(*of_day, in_progress).limit(KEPT + 1)))
        start = until
    return sorted(found)


async def _finish(bulk: Bulk) -> None:
    """Delete what belongs to partitions that were detached, and drop them."""
    names = await change_partitions(bulk.database, dropped, bulk.heartbeat)
    if not names:
        return
    months = await _partitions(bulk, "message")
    if months and (end := months[0].upper) is not None:
        moment = moment_of(end)
        key, round_of = col(MessageKey.message_gid), col(DeliveryRound.delivery_gid)
        await bulk.delete(MessageKey, key < end, ~exists().where(col(Message.gid) == key))
        before_gid = first_gid_at(Kind.DELIVERY, moment)
        await bulk.delete(DeliveryRound, round_of < before_gid, ~exists().where(col(Delivery.gid) == round_of))
        gate_of, task_of, decision_of = col(Gate.message_gid), col(Task.delivery_gid), col(TaskDecision.task_gid)
        await bulk.delete(Gate, gate_of < end, ~exists().where(col(Message.gid) == gate_of))
        await bulk.delete(Task, task_of < before_gid, ~exists().where(col(Delivery.gid) == task_of))
        await bulk.delete(TaskDecision, ~exists().where(col(Task.gid) == decision_of))

    def change(connection: sa.Connection) -> None:
        drop(connection, names)
        analyze(connection)

    await change_partitions(bulk.database, change, bulk.heartbeat)


async def _partitions(bulk: Bulk, table: str) -> list[Partition]:
    async with bulk.database.read_connection() as connection:
        return await connection.run_sync(partitions_of, table)
