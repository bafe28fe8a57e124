"""Retention: deletes expired data by ranges of keys, in small transactions.

Nothing of a message is deleted before all of its deliveries are over, dead letters included, because a replay needs all
of it. Receipts and the audit trail are never deleted.

Expired data is found by keys alone, since ids sort by time, and through indexes that hold only what can still be
deleted: the cost of a pass depends on what it deletes, and on expired messages that are still in progress.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import ColumnElement, Select, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES, RetentionResult
from everhook.delivery.policy_history_store import remove_policies
from everhook.ids import Kind, first_gid_at
from everhook.publishing.erasure_store import erase_responses, finish_erasures
from everhook.settings import Settings
from everhook.storage.bulk import Bulk
from everhook.storage.idempotency import LIFETIME as RESPONSES_KEPT
from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import (
    ApiKey,
    Attempt,
    Batch,
    BatchState,
    Channel,
    Delivery,
    DeliveryRound,
    EndpointMinute,
    EndpointMinuteError,
    EndpointSecret,
    Gate,
    IdempotentResponse,
    Message,
    MessageKey,
    OperationalEvent,
    PayloadErasure,
    ScheduledMessage,
    Task,
    TaskDecision,
    now,
)
from everhook.tenants.months_store import apply_to_months

MESSAGES = 100
"""Messages in one batch; each may have many deliveries."""

LATE = timedelta(days=62)
"""How long after its retention a message may be deleted, because it is dropped with its month."""

API_KEYS_SHOWN = timedelta(days=30)
"""How long an expired or revoked key is still listed, so that its owner can be looked up."""


@dataclass(frozen=True)
class RetentionPeriods:
    """How long data is kept; None: for ever. `erasure_grace`: how long attempts in flight may still record
    responses."""

    payloads: timedelta | None = timedelta(days=30)
    deliveries: timedelta | None = timedelta(days=90)
    idempotency_keys: timedelta | None = timedelta(days=30)
    events: timedelta | None = timedelta(days=90)
    health: timedelta | None = timedelta(days=30)
    erasure_grace: timedelta = timedelta(minutes=2)

    @classmethod
    def from_settings(cls, settings: Settings) -> "RetentionPeriods":
        return cls(
            payloads=_period(settings.payload_retention_days),
            deliveries=_period(settings.delivery_retention_days),
            idempotency_keys=_period(settings.idempotency_retention_days),
            events=_period(settings.event_retention_days),
            health=_period(settings.health_retention_days),
            erasure_grace=timedelta(seconds=settings.erasure_settle_seconds),
        )


def _period(days: float) -> timedelta | None:
    return timedelta(days=days) if days else None


async def apply_retention(bulk: Bulk, periods: RetentionPeriods) -> RetentionResult:
    """One pass over all data. It can be interrupted at any point; the next pass continues with what is left."""
    moment = now()
    await finish_erasures(bulk, periods.erasure_grace)
    return RetentionResult(
        messages=await _remove_old_messages(bulk, moment, periods.deliveries),
        payloads=await _erase_old_payloads(bulk, moment, periods.payloads),
        idempotency_keys=await release_idempotency_keys(bulk, moment - periods.idempotency_keys)
        if periods.idempotency_keys
        else 0,
        events=await remove_events(bulk, moment - periods.events) if periods.events else 0,
        minutes=await remove_minutes(bulk, moment - periods.health) if periods.health else 0,
        credentials=await remove_credentials(bulk, moment),
        policies=await remove_policies(bulk),
    )


async def _remove_old_messages(bulk: Bulk, moment: datetime, period: timedelta | None) -> int:
    """Drop whole months, where there are partitions, and delete what they leave.

    A month with many deliveries that ended late stays until these ended long enough ago. Its messages are not deleted
    one by one until `LATE` has passed, unless they are to be kept for a short time only.
    """
    months = await apply_to_months(bulk, moment - period if period else None)
    if period is None:
        return 0
    before = moment - period
    if months.first_end is not None and period >= LATE:
        return months.removed + await remove_messages(bulk, before, created=max(before - LATE, months.first_end))
    return months.removed + await remove_messages(bulk, before)


async def remove_messages(bulk: Bulk, before: datetime, *, created: datetime | None = None) -> int:
    """Delete messages accepted before a moment, with their deliveries and attempts, if all of those ended before it.
    `created`: only messages that were created before this."""
    removed = 0
    messages = _created_before(min(before, created or before))
    async for gids in _completed(bulk, messages, ended_before=before):
        async for deliveries in bulk.batches(select(col(Delivery.gid)).where(col(Delivery.message_gid).in_(gids))):
            await bulk.change(
                delete(Attempt).where(col(Attempt.delivery_gid).in_(deliveries)),
                delete(TaskDecision).where(
                    col(TaskDecision.task_gid).in_(select(col(Task.gid)).where(col(Task.delivery_gid).in_(deliveries)))
                ),
                delete(Task).where(col(Task.delivery_gid).in_(deliveries)),
                delete(DeliveryRound).where(col(DeliveryRound.delivery_gid).in_(deliveries)),
                delete(Delivery).where(col(Delivery.gid).in_(deliveries)),
            )
        removed += await bulk.change(
            delete(MessageKey).where(col(MessageKey.message_gid).in_(gids)),
            delete(Gate).where(col(Gate.message_gid).in_(gids)),
            delete(PayloadErasure).where(col(PayloadErasure.message_gid).in_(gids)),
            delete(Message).where(col(Message.gid).in_(gids)),
        )
    return removed


async def _erase_old_payloads(bulk: Bulk, moment: datetime, period: timedelta | None) -> int:
    """Erase payloads channel by channel: each may have a period of its own."""
    own = await _periods_of_channels(bulk)
    erased = 0
    async for channel in _channels_with_payloads(bulk):
        kept = own.get(channel, period)
        erased += await erase_payloads(bulk, channel, moment - kept) if kept is not None else 0
    return erased


async def _periods_of_channels(bulk: Bulk) -> dict[str, timedelta]:
    days = select(col(Channel.name), col(Channel.retention_days)).where(col(Channel.retention_days).is_not(None))
    async with bulk.database.read_connection() as connection:
        return {name: timedelta(days=kept) for name, kept in (await connection.execute(days)).all() if kept}


async def _channels_with_payloads(bulk: Bulk) -> AsyncIterator[str]:
    """The channels that have messages with payloads, also those that were deleted: one step in an index for each."""
    channel, after = col(Message.channel), ""
    following = select(channel).where(col(Message.payload).is_not(None)).order_by(channel).limit(1)
    while found := await bulk.find(following.where(channel > after)):
        yield found[0]
        after = found[0]


async def erase_payloads(bulk: Bulk, channel: str, before: datetime) -> int:
    """Erase the payloads of messages of a channel that were accepted before a moment and whose deliveries are over, and
    the responses to them."""
    erased = 0
    async for gids in _completed(bulk, with_payload(channel, before)):
        await erase_responses(bulk, gids)
        await bulk.change(delete(PayloadErasure).where(col(PayloadErasure.message_gid).in_(gids)))
        erased += len(gids)
    return erased


async def release_idempotency_keys(bulk: Bulk, before: datetime) -> int:
    """Release the idempotency keys of messages accepted before a moment, so that they can be used again."""
    released = 0
    async for gids in bulk.pages(with_key(before)):
        released += await bulk.change(
            update(Message).where(col(Message.gid).in_(gids)).values(idempotency_key=None),
            delete(MessageKey).where(col(MessageKey.message_gid).in_(gids)),
        )
    return released


async def remove_events(bulk: Bulk, before: datetime) -> int:
    """Delete operational events, and replays that have ended."""
    ended = (col(Batch.gid) < first_gid_at(Kind.BATCH, before), col(Batch.state) != BatchState.RUNNING)
    batches = await bulk.delete(Batch, *ended)
    return batches + await bulk.delete(OperationalEvent, col(OperationalEvent.gid) < first_gid_at(Kind.EVENT, before))


async def remove_minutes(bulk: Bulk, before: datetime) -> int:
    errors = await bulk.delete(EndpointMinuteError, col(EndpointMinuteError.minute) < before)
    return errors + await bulk.delete(EndpointMinute, col(EndpointMinute.minute) < before)


async def remove_credentials(bulk: Bulk, moment: datetime) -> int:
    """Delete expired signing secrets, API keys that have been invalid for a while, and responses to idempotent
    calls, which may hold either."""
    secrets = await bulk.delete(EndpointSecret, col(EndpointSecret.expires_at) < moment)
    secrets += await bulk.delete(IdempotentResponse, col(IdempotentResponse.created_at) < moment - RESPONSES_KEPT)
    shown_from = moment - API_KEYS_SHOWN
    over = or_(col(ApiKey.expires_at) < shown_from, col(ApiKey.revoked_at) < shown_from)
    return secrets + await bulk.delete(ApiKey, over)


def _created_before(moment: datetime) -> Select[str]:
    return select(col(Message.gid)).where(col(Message.gid) < first_gid_at(Kind.MESSAGE, moment))


def with_payload(channel: str, before: datetime) -> Select[str]:
    """Messages of a channel created before a moment that still have their payload; by an index of only those."""
    return _created_before(before).where(col(Message.channel) == channel, col(Message.payload).is_not(None))


def with_key(before: datetime) -> Select[str]:
    """Messages created before a moment that still have their idempotency key; by an index of only those."""
    gid = col(MessageKey.message_gid)
    return select(gid).where(gid < first_gid_at(Kind.MESSAGE, before))


async def _completed(
    bulk: Bulk, messages: Select[str], *, ended_before: datetime | None = None
) -> AsyncIterator[list[str]]:
    """Those of the messages whose deliveries are over, page by page; with `ended_before`, only if all ended before it.
    A scheduled message waits for its deliveries. Their payloads are erased, so that the result stays true: without a
    payload no message can be replayed.
    """
    in_progress: ColumnElement[bool] = col(Delivery.status).not_in(TERMINAL_STATUSES)
    if ended_before is not None:
        in_progress = or_(in_progress, col(Delivery.completed_at) >= ended_before)
    async for gids in bulk.pages(messages, MESSAGES):
        unfinished = {gid for statement in _unfinished(gids, in_progress) for gid in await bulk.find(statement)}
        over = [gid for gid in gids if gid not in unfinished]
        if over and (completed := await bulk.transact(partial(_erase_if_over, gids=over, in_progress=in_progress))):
            yield completed


async def _erase_if_over(
    connection: AsyncConnection, *, gids: Sequence[str], in_progress: ColumnElement[bool]
) -> list[str]:
    """Erase the payloads of messages, except of those that were replayed since they were found. Returns the others.

    A replay locks the message, and then opens deliveries: what it has opened is seen by a statement that begins after
    the lock was granted. Responses of those that are erased here are erased by the caller, or by `finish_erasures` if
    the caller dies.
    """
    locked = (
        select(col(Message.gid), col(Message.payload).is_not(None))
        .where(col(Message.gid).in_(gids))
        .order_by(col(Message.gid))
        .with_for_update()
    )
    rows = (await connection.execute(locked)).all()
    replayed: set[str] = set()
    for statement in _unfinished(gids, in_progress):
        replayed.update((await connection.execute(statement)).scalars())
    erased = [gid for gid, has_payload in rows if has_payload and gid not in replayed]
    if erased:
        await connection.execute(
            update(Message)
            .where(col(Message.gid).in_(erased))
            .values(payload=None, attributes=None, payload_erased_at=now(), validation_error=None)
        )
        pending = insert_ignoring(connection, PayloadErasure, "message_gid")
        await connection.execute(pending, [PayloadErasure(message_gid=gid).model_dump() for gid in erased])
    return [gid for gid in gids if gid not in replayed]


def _unfinished(message_gids: Sequence[str], in_progress: ColumnElement[bool]) -> tuple[Select[str], ...]:
    """Those of the messages that wait for their time, and those with a delivery in progress."""
    scheduled, message = col(ScheduledMessage.message_gid), col(Delivery.message_gid)
    return (
        select(scheduled).where(scheduled.in_(message_gids)),
        select(message).where(message.in_(message_gids), in_progress).distinct(),
    )
