"""Retention: deletes expired data by ranges of keys, in small transactions.

Nothing of a message is deleted before all of its deliveries are over, dead letters included, because a replay needs all
of it. Receipts and the audit trail are never deleted.

Expired data is found by keys alone, since ids sort by time, and through indexes that hold only what can still be
deleted: the cost of a pass depends on what it deletes, and on expired messages that are still in progress.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, delete, or_, select, update
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES, RetentionResult
from everhook.delivery.policy_history_store import remove_policies
from everhook.ids import Kind, first_gid_at
from everhook.publishing.erasure_store import erase_responses, finish_erasures
from everhook.settings import Settings
from everhook.storage.bulk import Bulk
from everhook.storage.idempotency import LIFETIME as RESPONSES_KEPT
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
        await erase_responses(
            bulk, gids
        )  # first: if this is interrupted, messages that still have a payload are found again
        erased += await bulk.change(
            update(Message)
            .where(col(Message.gid).in_(gids))
            .values(payload=None, attributes=None, payload_erased_at=now(), validation_error=None)
        )
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
    A scheduled message waits for its deliveries.

    A delivery that is over stays so, and no message gets more deliveries, so the result stays true.
    """
    in_progress: ColumnElement[bool] = col(Delivery.status).not_in(TERMINAL_STATUSES)
    if ended_before is not None:
        in_progress = or_(in_progress, col(Delivery.completed_at) >= ended_before)
    async for gids in bulk.pages(messages, MESSAGES):
        statement: Select[Any] = select(col(Delivery.message_gid)).where(
            col(Delivery.message_gid).in_(gids), in_progress
        )
        waiting = select(col(ScheduledMessage.message_gid)).where(col(ScheduledMessage.message_gid).in_(gids))
        unfinished = {*await bulk.find(waiting), *await bulk.find(statement.distinct())}
        if completed := [gid for gid in gids if gid not in unfinished]:
            yield completed
