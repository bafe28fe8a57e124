"""Delivery orders: what a delivery's workflow is started with, built from what the database knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Result, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from everhook.contracts import DeliveryOrder, DeliveryStatus, OpenDeadLetter
from everhook.policy import resolve
from everhook.settings import Settings
from everhook.storage.routes import Route
from everhook.storage.tables import Channel, Delivery, Endpoint, Tenant, now


@dataclass(frozen=True)
class OrderDefaults:
    """What settings contribute to every order."""

    express: bool = True
    park_check: timedelta = timedelta(minutes=10)
    dead_letter_retention: timedelta = timedelta(days=30)

    @classmethod
    def from_settings(cls, settings: Settings) -> "OrderDefaults":
        return cls(
            express=settings.express,
            park_check=timedelta(seconds=settings.park_check_seconds),
            dead_letter_retention=timedelta(days=settings.dead_letter_retention_days),
        )


def first_order(
    delivery_gid: str, message_gid: str, channel: str, event_type: str, route: Route, defaults: OrderDefaults
) -> DeliveryOrder:
    """The order of a delivery that was just accepted."""
    return DeliveryOrder(
        delivery_gid=delivery_gid,
        message_gid=message_gid,
        endpoint_gid=route.endpoint_gid,
        tenant=route.tenant,
        channel=channel,
        event_type=event_type,
        policy=route.policy,
        express=defaults.express and route.rate_limit is None,
        rate_limit=route.rate_limit,
        park_check=defaults.park_check,
        dead_letter_retention=defaults.dead_letter_retention,
    )


async def load_orders(
    connection: AsyncConnection, defaults: OrderDefaults, where: Sequence[ColumnElement[bool]], limit: int
) -> list[DeliveryOrder]:
    """Orders for stored deliveries, oldest first, that take up where the rows say they were. None for deliveries of a
    tenant that is being erased: their workflows are ended, and must not begin anew."""
    rows: Result[Any] = await connection.execute(
        select(
            col(Delivery.gid),
            col(Delivery.message_gid),
            col(Delivery.endpoint_gid),
            col(Delivery.channel),
            col(Delivery.event_type),
            col(Delivery.status),
            col(Delivery.round),
            col(Delivery.attempts),
            col(Delivery.reason),
            col(Delivery.dead_lettered_at),
            col(Delivery.last_status_code),
            col(Delivery.due_at),
            col(Tenant.name).label("tenant"),
            col(Channel.policy).label("channel_policy"),
            col(Endpoint.policy).label("endpoint_policy"),
            col(Endpoint.rate_limit),
        )
        .join(Endpoint, col(Endpoint.gid) == col(Delivery.endpoint_gid))
        .join(Tenant, col(Tenant.gid) == col(Delivery.tenant_gid))
        .outerjoin(Channel, col(Channel.name) == col(Delivery.channel))
        .where(col(Tenant.erasing_since).is_(None), *where)
        .order_by(col(Delivery.gid))
        .limit(limit)
    )
    return [_order(row, defaults) for row in rows]


async def load_order(connection: AsyncConnection, defaults: OrderDefaults, delivery_gid: str) -> DeliveryOrder | None:
    orders = await load_orders(connection, defaults, [col(Delivery.gid) == delivery_gid], limit=1)
    return orders[0] if orders else None


def _order(row: Any, defaults: OrderDefaults) -> DeliveryOrder:
    return DeliveryOrder(
        delivery_gid=row.gid,
        message_gid=row.message_gid,
        endpoint_gid=row.endpoint_gid,
        tenant=row.tenant,
        channel=row.channel,
        event_type=row.event_type,
        policy=resolve(row.channel_policy, row.endpoint_policy),
        express=defaults.express and row.rate_limit is None and row.status is DeliveryStatus.ACCEPTED,
        rate_limit=row.rate_limit,
        round=row.round,
        attempt=_next_attempt(row.status, row.attempts),
        dead_letter=_open_dead_letter(row),
        park_check=defaults.park_check,
        dead_letter_retention=_retention_left(row, defaults),
    )


def _open_dead_letter(row: Any) -> OpenDeadLetter | None:
    if row.status is not DeliveryStatus.DEAD_LETTERED:
        return None
    return OpenDeadLetter(row.reason, row.dead_lettered_at, row.last_status_code)


def _retention_left(row: Any, defaults: OrderDefaults) -> timedelta:
    """A dead letter whose workflow was lost keeps its date: `due_at` is the end of its retention."""
    if row.status is not DeliveryStatus.DEAD_LETTERED:
        return defaults.dead_letter_retention
    left: timedelta = row.due_at - now()
    return max(left, timedelta())


def _next_attempt(status: DeliveryStatus, attempts: int) -> int:
    """The attempt to take up with. One that is on record with its round over, but not yet dead-lettered, is asked
    for again: `send_attempt` answers from the record, and the workflow draws the same conclusion once more."""
    settled = status is DeliveryStatus.SENDING and attempts > 0
    return attempts if settled else attempts + 1
