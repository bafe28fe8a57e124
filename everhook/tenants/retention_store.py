"""Retention: what is past its time goes, by ranges of keys, in small transactions.

Nothing of a message goes before each of its deliveries is over, dead letters among those that are not: whoever may
still have to send it has all there is. Receipts and the audit trail are not touched at all.

What is due is found by keys alone, since ids sort by time, and through indexes that hold only what is still there to
remove: the cost of a pass follows what it removes, and the messages that are past their time but still under way.
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
    Delivery,
    DeliveryRound,
    EndpointMinute,
    EndpointMinuteError,
    EndpointSecret,
    IdempotentResponse,
    Message,
    OperationalEvent,
    now,
)

MESSAGES = 100
"""Looked at together; each may have many deliveries."""

API_KEYS_SHOWN = timedelta(days=30)
"""An expired or revoked key is listed for so long: one may want to know whose it was."""


@dataclass(frozen=True)
class RetentionPeriods:
    """How long each is kept. None: for ever. `settle`: how long attempts in flight may still bring back answers."""

    payloads: timedelta | None = timedelta(days=30)
    deliveries: timedelta | None = timedelta(days=90)
    idempotency_keys: timedelta | None = timedelta(days=30)
    events: timedelta | None = timedelta(days=90)
    health: timedelta | None = timedelta(days=30)
    settle: timedelta = timedelta(minutes=2)

    @classmethod
    def from_settings(cls, settings: Settings) -> "RetentionPeriods":
        return cls(
            payloads=_period(settings.payload_retention_days),
            deliveries=_period(settings.delivery_retention_days),
            idempotency_keys=_period(settings.idempotency_retention_days),
            events=_period(settings.event_retention_days),
            health=_period(settings.health_retention_days),
            settle=timedelta(seconds=settings.erasure_settle_seconds),
        )


def _period(days: float) -> timedelta | None:
    return timedelta(days=days) if days else None


async def remove_past(bulk: Bulk, periods: RetentionPeriods) -> RetentionResult:
    """One pass over everything. It may be interrupted anywhere: the next one finds what is left."""
    moment = now()
    await finish_erasures(bulk, periods.settle)
    return RetentionResult(
        messages=await remove_messages(bulk, moment - periods.deliveries) if periods.deliveries else 0,
        payloads=await erase_payloads(bulk, moment - periods.payloads) if periods.payloads else 0,
        idempotency_keys=await release_idempotency_keys(bulk, moment - periods.idempotency_keys)
        if periods.idempotency_keys
        else 0,
        events=await remove_events(bulk, moment - periods.events) if periods.events else 0,
        minutes=await remove_minutes(bulk, moment - periods.health) if periods.health else 0,
        credentials=await remove_credentials(bulk, moment),
        policies=await remove_policies(bulk),
    )


async def remove_messages(bulk: Bulk, before: datetime) -> int:
    """Remove messages accepted before a moment, with their deliveries and attempts, if all of those ended before it."""
    removed = 0
    async for gids in _over(bulk, _made_before(before), ended_before=before):
        async for deliveries in bulk.batches(select(col(Delivery.gid)).where(col(Delivery.message_gid).in_(gids))):
            await bulk.change(
                delete(Attempt).where(col(Attempt.delivery_gid).in_(deliveries)),
                delete(DeliveryRound).where(col(DeliveryRound.delivery_gid).in_(deliveries)),
                delete(Delivery).where(col(Delivery.gid).in_(deliveries)),
            )
        removed += await bulk.change(delete(Message).where(col(Message.gid).in_(gids)))
    return removed


async def erase_payloads(bulk: Bulk, before: datetime) -> int:
    """Erase the payloads of messages accepted before a moment whose deliveries are over, and the answers to them."""
    erased = 0
    async for gids in _over(bulk, with_payload(before)):
        await erase_responses(bulk, gids)  # first: what still has a payload is found again, should we be interrupted
        erased += await bulk.change(
            update(Message).where(col(Message.gid).in_(gids)).values(payload=None, payload_erased_at=now())
        )
    return erased


async def release_idempotency_keys(bulk: Bulk, before: datetime) -> int:
    """Let the idempotency keys of messages accepted before a moment be used anew."""
    freed = 0
    async for gids in bulk.pages(with_key(before)):
        freed += await bulk.change(update(Message).where(col(Message.gid).in_(gids)).values(idempotency_key=None))
    return freed


async def remove_events(bulk: Bulk, before: datetime) -> int:
    return await bulk.delete(OperationalEvent, col(OperationalEvent.gid) < first_gid_at(Kind.EVENT, before))


async def remove_minutes(bulk: Bulk, before: datetime) -> int:
    errors = await bulk.delete(EndpointMinuteError, col(EndpointMinuteError.minute) < before)
    return errors + await bulk.delete(EndpointMinute, col(EndpointMinute.minute) < before)


async def remove_credentials(bulk: Bulk, moment: datetime) -> int:
    """Remove signing secrets that sign no more, API keys that have not been valid for a while, and the responses kept
    for idempotency keys, which may hold either."""
    secrets = await bulk.delete(EndpointSecret, col(EndpointSecret.expires_at) < moment)
    secrets += await bulk.delete(IdempotentResponse, col(IdempotentResponse.created_at) < moment - RESPONSES_KEPT)
    shown_from = moment - API_KEYS_SHOWN
    over = or_(col(ApiKey.expires_at) < shown_from, col(ApiKey.revoked_at) < shown_from)
    return secrets + await bulk.delete(ApiKey, over)


def _made_before(moment: datetime) -> Select[str]:
    return select(col(Message.gid)).where(col(Message.gid) < first_gid_at(Kind.MESSAGE, moment))


def with_payload(before: datetime) -> Select[str]:
    """Messages made before a moment that still have their payload: by an index of those alone."""
    return _made_before(before).where(col(Message.payload).is_not(None))


def with_key(before: datetime) -> Select[str]:
    """Messages made before a moment that still have their idempotency key: by an index of those alone."""
    return _made_before(before).where(col(Message.idempotency_key).is_not(None))


async def _over(bulk: Bulk, messages: Select[str], *, ended_before: datetime | None = None) -> AsyncIterator[list[str]]:
    """Those of the messages whose deliveries are over, page by page; with a moment, only if all ended before it.

    A delivery that is over stays so, and no message gets more deliveries: what is true here will be true later.
    """
    under_way: ColumnElement[bool] = col(Delivery.status).not_in(TERMINAL_STATUSES)
    if ended_before is not None:
        under_way = or_(under_way, col(Delivery.completed_at) >= ended_before)
    async for gids in bulk.pages(messages, MESSAGES):
        statement: Select[Any] = select(col(Delivery.message_gid)).where(col(Delivery.message_gid).in_(gids), under_way)
        kept = set(await bulk.find(statement.distinct()))
        if over := [gid for gid in gids if gid not in kept]:
            yield over
