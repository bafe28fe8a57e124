"""Opening the next round of a delivery that has ended: of one message, and of the pages of a replay."""

import re
from collections.abc import Mapping
from datetime import datetime

import orjson

from everhook.axme.intents import CHANNEL as AXME_CHANNEL
from everhook.contracts import TERMINAL_STATUSES, DeliveryMode, DeliveryStatus
from everhook.delivery.inputs_store import InputDefaults
from everhook.inbox.deadlines_store import ask_again
from everhook.notifications.events import is_reserved
from everhook.publishing.matching import parse_exactly
from everhook.publishing.rows import Publisher
from everhook.publishing.store import Publication
from everhook.pulling.queue_store import requeue
from everhook.redelivery.store import Leg, MessageGate
from everhook.storage.engine import Session
from everhook.storage.tables import DeliveryRound, Message

MAX_REASON = 1_000
"""Characters of the reason for a replay."""

_REMINDER_KEY = re.compile(r"dlv_[0-9a-z]{26}/reminder/[0-9]+")
"""The idempotency keys of reminders. They go to one endpoint, and no subscription applies."""

CAN_BE_REPLAYED = TERMINAL_STATUSES | {DeliveryStatus.DEAD_LETTERED}


async def open_round(
    session: Session, defaults: InputDefaults, leg: Leg, actor: str, reason: str, moment: datetime
) -> None:
    """Open the next round of a delivery that is locked and has ended. Its workflow is started after the commit; until
    then it is due like a delivery that was just accepted."""
    row = leg.delivery
    row.status, row.round, row.attempts = DeliveryStatus.ACCEPTED, row.round + 1, 0
    row.reason = row.dead_lettered_at = row.completed_at = row.parked_at = None
    row.due_at, row.dispatched_at = moment + defaults.first_attempt_bound(leg.policy), None
    row.decided_by, row.decided_why = actor, reason
    if leg.mode.is_pulled:
        row.dispatched_at = moment  # it waits for a consumer and for no workflow
    session.add_all([row, DeliveryRound(delivery_gid=row.gid, round=row.round, began_at=moment)])
    if leg.mode.is_pulled:
        await requeue(session, row.gid)
    elif leg.mode is DeliveryMode.INBOX:
        await ask_again(session, row.gid)


def publication_of(
    message: Message, gate: MessageGate | None, publishers: Mapping[str, str], tenant_gid: str | None
) -> Publication:
    """A message as it was published. It goes to the endpoints of `tenant_gid`, unless it was for those of one tenant.
    `publishers` are the names of keys."""
    payload = message.payload or b""
    name = publishers.get(message.published_by) if message.published_by is not None else None
    return Publication(
        message_gid=message.gid,
        channel=message.channel,
        event_type=message.event_type,
        payload=payload,
        content=_content(payload),
        body_sha256=message.body_sha256,
        published_at=message.published_at,
        tenant_gid=message.tenant_gid or tenant_gid,
        traceparent=message.traceparent,
        task=gate.task if gate is not None else {},
        publisher=Publisher(message.published_by, name),
        accepted_at=message.accepted_at,
    )


def is_addressed(message: Message) -> bool:
    """Whether a message went to endpoints regardless of subscriptions, so that subscriptions must not add any."""
    is_reminder = message.published_by is None and _REMINDER_KEY.fullmatch(message.idempotency_key or "") is not None
    return is_reminder or is_addressed_channel(message.channel)


def is_addressed_channel(channel: str) -> bool:
    """Whether this is so for all messages of a channel."""
    return is_reserved(channel) or channel == AXME_CHANNEL


def _content(payload: bytes) -> object:
    """Parse for filters, as a publish does."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return parse_exactly(payload)
