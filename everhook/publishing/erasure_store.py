"""Erases the content of messages: payloads, and the responses of endpoints to them. Hashes and receipts stay."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES, DeliveryStatus
from everhook.publishing.schedules_store import cancel
from everhook.storage.bulk import Bulk
from everhook.storage.statements import insert_ignoring
from everhook.storage.tables import Attempt, Delivery, Message, PayloadErasure, Task, TaskDecision, now

NO_WORKFLOW = (DeliveryStatus.GATED, DeliveryStatus.QUEUED)
TAKE_CONTENT_FOR_LONG = (DeliveryStatus.AVAILABLE, DeliveryStatus.AWAITING_DECISION)
"""Consumers and people hold these: what they submit is recorded long after the payload was erased."""


async def erase_payload(session: AsyncSession, message_gid: str) -> bool:
    """Erase the payload of a message, and cancel it if it waits for its time; the caller then calls `erase_responses`.
    False if there is no such message.

    Rows are locked in the order in which a scheduled message is delivered or cancelled: its schedule, the message.
    If the caller dies before that, and for attempts that are in flight, `finish_erasures` does it.
    """
    found = await session.execute(select(col(Message.gid)).where(col(Message.gid) == message_gid))
    if found.one_or_none() is None:
        return False
    await cancel(await session.connection(), message_gid)
    await session.execute(
        update(Message)
        .where(col(Message.gid) == message_gid, col(Message.payload).is_not(None))
        .values(payload=None, attributes=None, payload_erased_at=now(), validation_error=None)
    )
    pending = insert_ignoring(await session.connection(), PayloadErasure, "message_gid")
    await session.execute(pending, [PayloadErasure(message_gid=message_gid).model_dump()])
    return True


async def erase_responses(bulk: Bulk, message_gids: Sequence[str]) -> None:
    """Erase the responses of endpoints to these messages: they may repeat what was sent."""
    deliveries = select(col(Delivery.gid)).where(col(Delivery.message_gid).in_(message_gids))
    async for gids in bulk.batches(deliveries):
        await bulk.change(
            update(Attempt)
            .where(
                col(Attempt.delivery_gid).in_(gids),
                or_(
                    col(Attempt.response_body).is_not(None),
                    col(Attempt.response_headers).is_not(None),
                    col(Attempt.error_detail).is_not(None),
                ),
            )
            .values(response_body=None, response_headers=None, error_detail=None),
            update(Task)
            .where(col(Task.delivery_gid).in_(gids))
            .values(comment=None, data=None, notes=[], version=Task.version + 1),
            update(TaskDecision)
            .where(col(TaskDecision.task_gid).in_(select(col(Task.gid)).where(col(Task.delivery_gid).in_(gids))))
            .values(comment=None, data=None),
        )


async def finish_erasures(bulk: Bulk, grace: timedelta) -> None:
    """Erase the responses to attempts that were in flight when the payload of their message was erased.

    `grace` is the time after which those attempts are recorded: an attempt takes 30 s at most, its recording seconds.
    A consumer holds a lease for hours, and people comment on a task until its workflow closes it: while a message has
    such deliveries, its row stays, and each pass erases what they have recorded.
    """
    requested = select(col(PayloadErasure.message_gid)).where(col(PayloadErasure.requested_at) < now() - grace)
    async for gids in bulk.pages(requested):
        # Looked for before the responses are erased, so that the row stays for a delivery that ends in between.
        taking = await bulk.find(
            select(col(Delivery.message_gid)).where(
                col(Delivery.message_gid).in_(gids), col(Delivery.status).in_(TAKE_CONTENT_FOR_LONG)
            )
        )
        await erase_responses(bulk, gids)
        finished = set(gids) - set(taking)
        await bulk.delete(PayloadErasure, col(PayloadErasure.message_gid).in_(finished))


async def is_erased(session: AsyncSession, message_gid: str) -> bool:
    """Whether the payload of a message was erased."""
    erased = select(col(Message.gid)).where(col(Message.gid) == message_gid, col(Message.payload).is_(None))
    return (await session.execute(erased)).one_or_none() is not None


def still_to_send(message_gid: str) -> list[ColumnElement[bool]]:
    """The condition for deliveries of a message whose workflows wait. An `accepted` one has its first attempt in
    flight, and those that wait for a gate or for their turn have no workflow."""
    others = [*TERMINAL_STATUSES, DeliveryStatus.DEAD_LETTERED, DeliveryStatus.ACCEPTED, *NO_WORKFLOW]
    return [col(Delivery.message_gid) == message_gid, col(Delivery.status).not_in(others)]
