"""The recorder: attempts with their receipts, and parked deliveries, written in batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, func, literal, null, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES, AttemptRecord, DeliveryStatus, FailureCode, Verdict
from everhook.delivery.rollups_store import roll_up
from everhook.ordering.store import Freed, settle
from everhook.receipts.issuer import SignedReceipt
from everhook.storage.batching import BatchExecutor
from everhook.storage.engine import Database
from everhook.storage.statements import insert_ignoring, plan_once, table_of
from everhook.storage.tables import Attempt, Delivery, PendingHistory, Receipt, now


@dataclass(frozen=True)
class Transcript:
    """What is stored of an exchange in addition to the `AttemptRecord`. It never leaves the database.

    `headers` and `body` are those of the response. `request_headers` are as sent, except the values of the endpoint's
    own headers. `receipt` is stored together with the attempt; neither is stored if the attempt is recorded already.
    """

    detail: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    url: str = ""
    request_headers: tuple[tuple[str, str], ...] = ()
    receipt: SignedReceipt | None = None


@dataclass(frozen=True)
class _Parking:
    delivery_gid: str
    due_at: datetime
    has_workflow: bool


@dataclass(frozen=True)
class _Recorded:
    """`freed` are those of the whole transaction; the first result has them."""

    is_new: bool
    freed: Sequence[Freed] = ()


@dataclass(frozen=True)
class Attempted:
    """An attempt to be recorded. `before_workflow`: its delivery has no workflow yet.

    `pulled_until`: consumers pull the delivery, and its round ends at this time unless it is over now. `is_grouped`
    False: it is known to have no group, so none has to be looked for.
    """

    record: AttemptRecord
    transcript: Transcript
    before_workflow: bool = False
    pulled_until: datetime | None = None
    is_grouped: bool = True


class Recorder:
    """Records attempts and parkings; concurrent callers share one transaction (group commit).

    `keep_history`: deliveries that are delivered before they have a workflow get a history workflow later.
    """

    def __init__(self, database: Database, *, keep_history: bool = True) -> None:
        self._keep_history = keep_history
        self._batches = BatchExecutor(database.write_connection, self._record)
        self._on_freed: Callable[[Sequence[Freed]], None] = lambda _: None

    def free_by(self, on_freed: Callable[[Sequence[Freed]], None]) -> None:
        """`on_freed` is called with the deliveries whose turn in their group it is, after the commit."""
        self._on_freed = on_freed

    async def attempt(
        self,
        record: AttemptRecord,
        transcript: Transcript,
        *,
        before_workflow: bool = False,
        is_grouped: bool = True,
        can_wait: bool = False,
    ) -> bool:
        """Record an attempt and what it means for its delivery. False if it was recorded already; then nothing changes.

        `before_workflow`: the delivery has no workflow yet. `is_grouped` False: it is known to have no group.
        `can_wait`: the transaction may begin a little later, so that more attempts share it.
        """
        attempted = Attempted(record, transcript, before_workflow, is_grouped=is_grouped)
        recorded = await self._batches.submit(attempted, can_wait=can_wait)
        self._on_freed(recorded.freed)
        return recorded.is_new

    async def parked(self, delivery_gid: str, due_at: datetime, *, has_workflow: bool = True) -> bool:
        """Record that a delivery is parked.

        `due_at` is its next step: the next check by its workflow, or the end of the window if it has no workflow.
        """
        return (await self._batches.submit(_Parking(delivery_gid, due_at, has_workflow))).is_new

    async def _record(self, connection: AsyncConnection, items: Sequence[Attempted | _Parking]) -> Sequence[_Recorded]:
        attempted = [item for item in items if isinstance(item, Attempted)]
        parkings = sorted((i for i in items if isinstance(i, _Parking)), key=lambda i: i.delivery_gid)
        await plan_once(connection)
        if parkings:
            await connection.execute(_PARKED, [_parked_delivery(parking) for parking in parkings])
        new, freed = await record_attempts(connection, attempted, keep_history=self._keep_history)
        recorded = {item.record.attempt_gid for item in new}
        results = [_Recorded(isinstance(item, _Parking) or item.record.attempt_gid in recorded) for item in items]
        results[0] = replace(results[0], freed=freed)
        return results


async def record_attempts(
    connection: AsyncConnection, attempted: Sequence[Attempted], *, keep_history: bool
) -> tuple[Sequence[Attempted], Sequence[Freed]]:
    """Record attempts with their receipts, and what they mean for their deliveries, as the last step of the caller's
    transaction. Returns those that were not recorded before, and the deliveries whose turn it is now."""
    if not attempted:
        return (), ()
    ordered = sorted(attempted, key=lambda item: item.record.delivery_gid)
    new = await _insert_attempts(connection, ordered)
    await _record_receipts(connection, new)
    await connection.execute(_ATTEMPTED, [_attempted_delivery(item) for item in ordered])
    if keep_history:
        await _expect_history(connection, new)
    await roll_up(connection, [item.record for item in new if item.record.error != FailureCode.UNSENDABLE])
    delivered = {
        item.record.delivery_gid for item in ordered if item.is_grouped and item.record.verdict is Verdict.DELIVERED
    }
    return new, await settle(connection, delivered) if delivered else ()


async def _expect_history(connection: AsyncConnection, new: Sequence[Attempted]) -> None:
    """Queue deliveries for a history workflow.

    This is a narrow table: a second update of `delivery`, with its indexes, would cost more than the first.
    """
    rows = [
        {"delivery_gid": item.record.delivery_gid, "settled_at": _ended_at(item.record)}
        for item in new
        if item.before_workflow and item.record.verdict is Verdict.DELIVERED
    ]
    if rows:
        await connection.execute(insert_ignoring(connection, PendingHistory, "delivery_gid"), rows)


async def _record_receipts(connection: AsyncConnection, new: Sequence[Attempted]) -> None:
    """Store the receipts of the attempts that were inserted. If two processes made the same attempt, one receipt is
    stored."""
    moment = now()
    rows = [
        {
            "gid": receipt.gid,
            "tenant_gid": receipt.tenant_gid,
            "delivery_gid": item.record.delivery_gid,
            "attempt_gid": item.record.attempt_gid,
            "round": item.record.round,
            "number": item.record.number,
            "jws": receipt.jws,
            "created_at": moment,
        }
        for item in new
        if (receipt := item.transcript.receipt) is not None
    ]
    if rows:
        await connection.execute(insert_ignoring(connection, Receipt, "delivery_gid", "round", "number"), rows)


async def _insert_attempts(connection: AsyncConnection, attempted: Sequence[Attempted]) -> list[Attempted]:
    """Insert attempts and return those that were new."""
    insert = insert_ignoring(connection, Attempt, "delivery_gid", "round", "number", returning="gid")
    inserted = (await connection.execute(insert, [_attempt_row(item) for item in attempted])).scalars()
    items = {item.record.attempt_gid: item for item in attempted}
    return [items[gid] for gid in inserted]


def _attempt_row(item: Attempted) -> dict[str, Any]:
    row = dict(vars(item.record))  # `asdict` copies each value
    del row["url_sha256"], row["signatures_sha256"]  # used only for the receipt
    row["gid"] = row.pop("attempt_gid")
    row["error_detail"] = item.transcript.detail
    row["url"] = item.transcript.url
    row["request_headers"] = [list(pair) for pair in item.transcript.request_headers] or None
    row["response_headers"] = [list(pair) for pair in item.transcript.headers] or None
    row["response_body"] = item.transcript.body
    return row


def _attempted_delivery(item: Attempted) -> dict[str, Any]:
    """How an attempt changes its delivery. After the last failed attempt of a round the delivery is `sending`, and due,
    until it is dead-lettered.

    An attempt proves that the workflow runs, whether or not its start was confirmed. An attempt made before the
    workflow makes a workflow unnecessary if it delivered; otherwise the start still has to be confirmed.
    """
    record = item.record
    ended_at = _ended_at(record)
    delivered = record.verdict is Verdict.DELIVERED
    due_at = record.next_attempt_at or ended_at
    if delivered:
        status = DeliveryStatus.DELIVERED
    elif item.pulled_until is not None:
        # No workflow takes the next step: it is due when the round ends.
        status, due_at = DeliveryStatus.AVAILABLE, item.pulled_until if record.next_attempt_at else ended_at
    else:
        status = DeliveryStatus.RETRYING if record.next_attempt_at else DeliveryStatus.SENDING
    return {
        "b_gid": record.delivery_gid,
        "b_round": record.round,
        "b_number": record.number,
        "b_status": status,
        "b_due_at": None if delivered else due_at,
        "b_completed_at": ended_at if delivered else None,
        "b_status_code": record.status_code,
        "b_error": record.error,
        "b_dispatched_at": ended_at if delivered or not item.before_workflow else None,
    }


def _parked_delivery(parking: _Parking) -> dict[str, Any]:
    moment = now()
    return {
        "b_gid": parking.delivery_gid,
        "b_due_at": parking.due_at,
        "b_parked_at": moment,
        "b_dispatched_at": moment if parking.has_workflow else None,
    }


def _ended_at(record: AttemptRecord) -> datetime:
    return record.started_at + timedelta(milliseconds=record.duration_ms)


_DELIVERY = table_of(Delivery)
_IN_PROGRESS = and_(
    # written out, because `NOT IN` cannot be executed for many rows at once
    *(_DELIVERY.c.status != over for over in [*TERMINAL_STATUSES, DeliveryStatus.DEAD_LETTERED])
)
_DISPATCHED = func.coalesce(
    _DELIVERY.c.dispatched_at, bindparam("b_dispatched_at", type_=_DELIVERY.c.dispatched_at.type)
)

_ATTEMPTED = (
    update(_DELIVERY)
    .where(
        col(Delivery.gid) == bindparam("b_gid"),
        col(Delivery.round) == bindparam("b_round"),
        col(Delivery.attempts) < bindparam("b_number"),
        _IN_PROGRESS,
    )
    .values(
        status=bindparam("b_status"),
        attempts=bindparam("b_number"),
        due_at=bindparam("b_due_at"),
        completed_at=bindparam("b_completed_at"),
        last_status_code=bindparam("b_status_code"),
        last_error=bindparam("b_error"),
        dispatched_at=_DISPATCHED,
        parked_at=null(),
    )
)

_PARKED = (
    update(_DELIVERY)
    .where(col(Delivery.gid) == bindparam("b_gid"), _IN_PROGRESS)
    .values(
        status=literal(DeliveryStatus.PARKED, type_=_DELIVERY.c.status.type),
        due_at=bindparam("b_due_at"),
        parked_at=bindparam("b_parked_at"),
        dispatched_at=_DISPATCHED,
    )
)
