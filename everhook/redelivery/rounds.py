"""Opening the next round of a delivery that has ended: of one message, and of the pages of a replay."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from everhook.contracts import TERMINAL_STATUSES, DeliveryMode, DeliveryStatus
from everhook.delivery.inputs_store import InputDefaults
from everhook.inbox.deadlines_store import ask_again
from everhook.notifications.events import is_reserved
from everhook.publishing.publication import Publication
from everhook.publishing.stored import published_before
from everhook.pulling.queue_store import requeue
from everhook.redelivery.store import Leg, LockedMessage, MessageGate
from everhook.storage.engine import Session
from everhook.storage.tables import DeliveryRound, Message

MAX_REASON = 1_000
"""Characters of the reason for a replay."""

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
    """A message as it was published, for further deliveries, which go out of order. They go to the endpoints of
    `tenant_gid`, unless the message was for those of one tenant. `publishers` are the names of keys."""
    publication = published_before(
        message,
        tenant_gid=message.tenant_gid or tenant_gid,
        publisher=publishers.get(message.published_by) if message.published_by is not None else None,
        task=gate.task if gate is not None else {},
    )
    return replace(publication, group_key=None)


def is_addressed(message: Message | LockedMessage) -> bool:
    """Whether a message went to endpoints regardless of subscriptions, so that subscriptions must not add any."""
    return message.endpoint_gid is not None or is_reserved(message.channel)
