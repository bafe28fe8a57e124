"""Tenant scope: what a caller can access, everything or the data of one tenant.

A scoped session adds the condition to each statement itself (`with_loader_criteria` in `do_orm_execute`, SQLAlchemy's
own recipe), so no query can forget it: lists, joins, counts, `session.get`, bulk updates and deletes alike. Data of
other tenants does not exist for it. Statements on Core tables are not scoped, and no plain connections are handed out
here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, and_, event, exists, false, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import LoaderCriteriaOption, ORMExecuteState, Session, with_loader_criteria
from sqlmodel import SQLModel, col

from everhook.notifications.events import RESERVED
from everhook.storage.engine import Database
from everhook.storage.statements import table_of
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
    EventType,
    Gate,
    GroupedDelivery,
    IdempotentResponse,
    Message,
    MessageKey,
    OperationalEvent,
    PastPolicy,
    PayloadErasure,
    PendingHistory,
    PullItem,
    Receipt,
    ReceiptArchive,
    ReceiptHash,
    ReceiptKeyRow,
    ReceiptSeal,
    ScheduledMessage,
    Subscription,
    Task,
    TaskDecision,
    Tenant,
)

BY_TENANT: tuple[Any, ...] = (
    ApiKey,
    AuditEntry,
    Batch,
    Delivery,
    Endpoint,
    EndpointAlerts,
    EndpointMinute,
    OperationalEvent,
    Receipt,
    ReceiptArchive,
    ReceiptHash,
    ReceiptSeal,
    Subscription,
    Task,
)
BY_ENDPOINT: tuple[Any, ...] = (
    CircuitRow,
    DeliveryGroup,
    EndpointMinuteError,
    EndpointSecret,
    GroupedDelivery,
    PullItem,
)
OPEN_TO_ALL: tuple[Any, ...] = (ReceiptKeyRow,)
CLOSED: tuple[Any, ...] = (EndpointRate, EndpointTurn, IdempotentResponse, MessageKey, PayloadErasure, PendingHistory)
"""Tables of no tenant: internal to the system."""

_TENANT = "tenant_gid"


class TenantScope:
    """The database as one caller sees it. Without `tenant_gid`: all of it."""

    def __init__(self, database: Database, tenant_gid: str | None = None) -> None:
        self._database = database
        self.tenant_gid = tenant_gid

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        async with self._database.reading() as session:
            yield self._bound(session)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        async with self._database.writing() as session:
            yield self._bound(session)

    def _bound(self, session: AsyncSession) -> AsyncSession:
        if self.tenant_gid is not None:
            session.info[_TENANT] = self.tenant_gid
        return session


def tenant_bound(session: AsyncSession) -> str | None:
    """The tenant that a session is scoped to."""
    tenant_gid: str | None = session.info.get(_TENANT)
    return tenant_gid


def bounds(tenant_gid: str) -> dict[type[SQLModel], ColumnElement[bool]]:
    """The condition that a row of each table belongs to a tenant, or may be shown to every tenant."""
    endpoint, delivery = (
        table_of(Endpoint).alias().c,
        table_of(Delivery).alias().c,
    )  # distinct from those of the statement
    task, message = table_of(Task).alias().c, table_of(Message).alias().c
    of_message = exists().where(delivery.message_gid == col(Message.gid), delivery.tenant_gid == tenant_gid)
    of_attempt = exists().where(delivery.gid == col(Attempt.delivery_gid), delivery.tenant_gid == tenant_gid)
    of_round = exists().where(delivery.gid == col(DeliveryRound.delivery_gid), delivery.tenant_gid == tenant_gid)
    own_endpoints = select(endpoint.gid).where(endpoint.tenant_gid == tenant_gid)
    return {
        **{model: col(model.tenant_gid) == tenant_gid for model in BY_TENANT},
        **{model: col(model.endpoint_gid).in_(own_endpoints) for model in BY_ENDPOINT},
        **{model: false() for model in CLOSED},
        Tenant: col(Tenant.gid) == tenant_gid,
        Message: or_(col(Message.tenant_gid) == tenant_gid, of_message),
        Attempt: of_attempt,
        DeliveryRound: of_round,
        Gate: exists().where(delivery.message_gid == col(Gate.message_gid), delivery.tenant_gid == tenant_gid),
        ScheduledMessage: exists().where(
            message.gid == col(ScheduledMessage.message_gid), message.tenant_gid == tenant_gid
        ),
        TaskDecision: exists().where(task.gid == col(TaskDecision.task_gid), task.tenant_gid == tenant_gid),
        Channel: ~col(Channel.name).startswith(RESERVED, autoescape=True),
        EventType: col(EventType.archived).is_(False),
        PastPolicy: or_(
            col(PastPolicy.endpoint_gid).in_(own_endpoints),
            and_(col(PastPolicy.endpoint_gid) == "", ~col(PastPolicy.channel).startswith(RESERVED, autoescape=True)),
        ),
    }


@event.listens_for(Session, "do_orm_execute")
def _bind(state: ORMExecuteState) -> None:
    tenant_gid = state.session.info.get(_TENANT)
    if tenant_gid is not None and not state.is_column_load:
        state.statement = state.statement.options(*_criteria(tenant_gid))


@lru_cache(maxsize=1_000)
def _criteria(tenant_gid: str) -> tuple[LoaderCriteriaOption, ...]:
    return tuple(
        with_loader_criteria(model, bound, include_aliases=True) for model, bound in bounds(tenant_gid).items()
    )
