"""Erases a tenant: one transaction makes it inaccessible, then all its data is deleted."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.dml import Delete
from sqlmodel import col

from everhook.contracts import TERMINAL_STATUSES, DeadLetterReason
from everhook.publishing.gate_progress_store import UPKEEP, Ending, decline_steps
from everhook.storage.bulk import Bulk
from everhook.storage.tables import (
    ApiKey,
    Attempt,
    AuditEntry,
    Batch,
    Channel,
    CircuitRow,
    Delivery,
    DeliveryGroup,
    DeliveryRound,
    Endpoint,
    EndpointAlerts,
    EndpointMinute,
    EndpointMinuteError,
    EndpointRate,
    EndpointSecret,
    EndpointTurn,
    Gate,
    GroupedDelivery,
    IdempotentResponse,
    Message,
    MessageKey,
    OperationalEvent,
    PastPolicy,
    PendingHistory,
    PullItem,
    Receipt,
    ReceiptArchive,
    ReceiptHash,
    ReceiptSeal,
    ScheduledMessage,
    Subscription,
    Task,
    TaskDecision,
    Tenant,
    now,
)

_OF_ENDPOINTS: tuple[Any, ...] = (
    Subscription, EndpointSecret, EndpointRate, EndpointTurn, EndpointAlerts, CircuitRow, EndpointMinute,
    EndpointMinuteError, PastPolicy, GroupedDelivery, DeliveryGroup,
)  # fmt: skip
_OF_TENANTS: tuple[Any, ...] = (
    Endpoint, ApiKey, AuditEntry, Batch, IdempotentResponse
)  # fmt: skip
"""Each table before those that it refers to."""

_LOG: tuple[Any, ...] = (ReceiptHash, ReceiptSeal, ReceiptArchive)
"""What belongs to the log of receipts comes last, because it may be being sealed."""


async def begin(session: AsyncSession, tenant_gid: str) -> bool:
    """Mark a tenant as being erased and shut it. False if there is no such tenant.

    Its name is replaced by one that no caller can use (it has a space), so that another tenant can take the name.
    """
    marked = await session.execute(
        update(Tenant)
        .where(col(Tenant.gid) == tenant_gid, col(Tenant.erasing_since).is_(None))
        .values(name=f"erasing {tenant_gid}", erasing_since=now())
        .returning(col(Tenant.gid))
    )
    if marked.one_or_none() is None:
        return False
    await shut(session, tenant_gid)
    return True


async def shut(session: AsyncSession, tenant_gid: str) -> None:
    """Shut a tenant: its endpoints are deleted for senders, its subscriptions are removed, and its keys are revoked."""
    moment = now()
    its_endpoints = endpoints_of(tenant_gid)
    its_channels = select(col(Subscription.channel)).where(col(Subscription.endpoint_gid).in_(its_endpoints))
    for statement in (
        update(Endpoint)
        .where(col(Endpoint.tenant_gid) == tenant_gid, col(Endpoint.deleted_at).is_(None))
        .values(deleted_at=moment, version=Endpoint.version + 1),
        update(Channel).where(col(Channel.name).in_(its_channels)).values(routes_version=Channel.routes_version + 1),
        delete(Subscription).where(col(Subscription.endpoint_gid).in_(its_endpoints)),
        delete(EndpointSecret).where(col(EndpointSecret.endpoint_gid).in_(its_endpoints)),
        delete(IdempotentResponse).where(col(IdempotentResponse.tenant_gid) == tenant_gid),
        update(ApiKey)
        .where(col(ApiKey.tenant_gid) == tenant_gid, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=moment),
    ):
        await session.execute(statement, execution_options={"synchronize_session": False})


async def being_erased(session: AsyncSession) -> list[str]:
    """The gids of tenants whose erasure is not complete."""
    found = await session.execute(select(col(Tenant.gid)).where(col(Tenant.erasing_since).is_not(None)))
    return list(found.scalars())


def deliveries_of(tenant_gid: str) -> Select[str]:
    return select(col(Delivery.gid)).where(col(Delivery.tenant_gid) == tenant_gid)


def open_ones(deliveries: Select[str]) -> Select[str]:
    return deliveries.where(col(Delivery.status).not_in(TERMINAL_STATUSES))


def endpoints_of(tenant_gid: str) -> Select[str]:
    return select(col(Endpoint.gid)).where(col(Endpoint.tenant_gid) == tenant_gid)


def messages_of(tenant_gid: str) -> Select[str]:
    return select(col(Message.gid)).where(col(Message.tenant_gid) == tenant_gid)


def deliveries_to_others(message_gids: Sequence[str], tenant_gid: str) -> Select[str]:
    """The deliveries of messages of a tenant to endpoints of other tenants: operators receive its operational
    events."""
    return select(col(Delivery.gid)).where(
        col(Delivery.message_gid).in_(message_gids), col(Delivery.tenant_gid) != tenant_gid
    )


def sent_to_one_endpoint(delivery_gids: Sequence[str], tenant_gid: str) -> Select[str]:
    """The messages of these deliveries that went to their endpoint alone, and were not sent to another tenant again."""
    its_messages = select(col(Delivery.message_gid)).where(col(Delivery.gid).in_(delivery_gids))
    sent_to_others = select(col(Delivery.gid)).where(
        col(Delivery.message_gid) == col(Message.gid), col(Delivery.tenant_gid) != tenant_gid
    )
    return select(col(Message.gid)).where(
        col(Message.gid).in_(its_messages), col(Message.endpoint_gid).is_not(None), ~sent_to_others.exists()
    )


def scheduled_for_endpoints_of(tenant_gid: str) -> Select[str]:
    """The messages that wait for their time, to go to one endpoint of the tenant alone."""
    its_message = select(col(Message.gid)).where(
        col(Message.gid) == col(ScheduledMessage.message_gid), col(Message.endpoint_gid).in_(endpoints_of(tenant_gid))
    )
    return select(col(ScheduledMessage.message_gid)).where(its_message.exists())


def _delete_messages(gids: Sequence[str]) -> tuple[Delete, ...]:
    return (
        delete(Gate).where(col(Gate.message_gid).in_(gids)),
        delete(ScheduledMessage).where(col(ScheduledMessage.message_gid).in_(gids)),
        delete(MessageKey).where(col(MessageKey.message_gid).in_(gids)),
        delete(Message).where(col(Message.gid).in_(gids)),
    )


async def _delete_deliveries(connection: AsyncConnection, *, gids: Sequence[str], tenant_gid: str) -> None:
    """Delete deliveries. What waits for a decision about them, which may belong to other tenants, is discarded."""
    for statement in (
        delete(Attempt).where(col(Attempt.delivery_gid).in_(gids)),
        delete(PullItem).where(col(PullItem.delivery_gid).in_(gids)),
        delete(TaskDecision).where(col(TaskDecision.task_gid).in_(tasks_of(gids))),
        delete(Task).where(col(Task.delivery_gid).in_(gids)),
    ):
        await connection.execute(statement)
    ending = Ending(DeadLetterReason.ENDPOINT_DELETED, UPKEEP, "the tenant of the inbox was erased")
    await decline_steps(connection, gids, ending, erased_tenant=tenant_gid)
    for statement in (
        delete(DeliveryRound).where(col(DeliveryRound.delivery_gid).in_(gids)),
        delete(PendingHistory).where(col(PendingHistory.delivery_gid).in_(gids)),
        delete(Delivery).where(col(Delivery.gid).in_(gids)),
    ):
        await connection.execute(statement)


def tasks_of(delivery_gids: Sequence[str]) -> Select[str]:
    return select(col(Task.gid)).where(col(Task.delivery_gid).in_(delivery_gids))


async def _remove_deliveries(connection: AsyncConnection, *, gids: Sequence[str], tenant_gid: str) -> None:
    """Delete deliveries, and messages that went to their endpoints alone. These are locked first: a replay, which locks
    its message too, may be sending one to another tenant."""
    its_messages = select(col(Delivery.message_gid)).where(col(Delivery.gid).in_(gids))
    addressed = (col(Message.gid).in_(its_messages), col(Message.endpoint_gid).is_not(None))
    await connection.execute(select(col(Message.gid)).where(*addressed).order_by(col(Message.gid)).with_for_update())
    alone = (await connection.execute(sent_to_one_endpoint(gids, tenant_gid))).scalars().all()
    for statement in _delete_messages(alone):
        await connection.execute(statement)
    await _delete_deliveries(connection, gids=gids, tenant_gid=tenant_gid)


async def remove(bulk: Bulk, tenant_gid: str) -> None:
    """Delete all data of a tenant, its own row last. It can be interrupted at any point and run again.

    Messages that went to all tenants stay, and so do audit entries that name no tenant, such as that of the erasure. A
    message that went to one endpoint of the tenant alone is the tenant's, though its publisher named none. The tenant's
    operational events are removed with their deliveries to operators.
    """
    await bulk.delete(OperationalEvent, col(OperationalEvent.tenant_gid) == tenant_gid)  # none becomes a message now
    async for gids in bulk.pages(deliveries_of(tenant_gid)):
        await bulk.transact(partial(_remove_deliveries, gids=gids, tenant_gid=tenant_gid))
    for its_messages in (scheduled_for_endpoints_of(tenant_gid), messages_of(tenant_gid)):
        async for gids in bulk.pages(its_messages):
            async for deliveries in bulk.batches(deliveries_to_others(gids, tenant_gid)):
                await bulk.transact(partial(_delete_deliveries, gids=deliveries, tenant_gid=tenant_gid))
            await bulk.change(*_delete_messages(gids))
    await bulk.delete(MessageKey, col(MessageKey.idempotency_scope) == tenant_gid)
    for model in _OF_ENDPOINTS:
        await bulk.delete(model, model.endpoint_gid.in_(endpoints_of(tenant_gid)))
    for model in _OF_TENANTS:
        await bulk.delete(model, model.tenant_gid == tenant_gid)
    for sealed in (col(Receipt.seq).is_(None), col(Receipt.seq).is_not(None)):  # each has an index
        await bulk.delete(Receipt, col(Receipt.tenant_gid) == tenant_gid, sealed)
    for model in _LOG:
        await bulk.delete(model, model.tenant_gid == tenant_gid)
    await bulk.delete(Tenant, col(Tenant.gid) == tenant_gid, col(Tenant.erasing_since).is_not(None))
