"""Endpoints as the dashboard lists them: searched, sorted, with their recent traffic.

There are some thousands of endpoints at most, so a search scans all of them; their deliveries are never scanned.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Result, Select, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.circuit.machine import CircuitState, Hold
from everhook.circuit.store import HELD_OR_NOT_CLOSED, NOT_CLOSED
from everhook.contracts import DeliveryStatus
from everhook.ids import Kind, first_gid_at
from everhook.storage.statements import total
from everhook.storage.tables import (
    Attempt,
    CircuitRow,
    Delivery,
    Endpoint,
    EndpointMinute,
    OperationalEvent,
    Subscription,
    Tenant,
)

State = Literal["closed", "failing", "paused", "disabled"]
Sort = Literal["newest", "health", "traffic", "url"]

CIRCUIT_EVENTS = (
    "endpoint.circuit_opened",
    "endpoint.circuit_closed",
    "endpoint.paused",
    "endpoint.resumed",
    "endpoint.disabled",
    "endpoint.enabled",
)


@dataclass(frozen=True)
class EndpointFilter:
    search: str = ""
    state: State | None = None


@dataclass(frozen=True)
class EndpointRow:
    """One row of a list of endpoints."""

    endpoint: Endpoint
    circuit: CircuitRow
    tenant: str


@dataclass(frozen=True)
class EndpointTraffic:
    """The traffic of an endpoint in one minute."""

    minute: datetime
    delivered: int
    failed: int


@dataclass(frozen=True)
class AttemptRow:
    """An attempt and its delivery."""

    attempt: Attempt
    delivery: Delivery


async def page(
    session: AsyncSession, chosen: EndpointFilter, sort: Sort, *, since: datetime, skip: int, limit: int
) -> tuple[list[EndpointRow], bool]:
    """One page of endpoints, and whether there are more. `health` and `traffic` are computed since `since`."""
    statement = listed().where(*_conditions(chosen))
    if sort in ("health", "traffic"):
        totals = _totals(since)
        statement = statement.outerjoin(totals, totals.c.endpoint_gid == col(Endpoint.gid))
        attempts = func.coalesce(totals.c.attempts, 0)
        worst = case((attempts == 0, 2.0), else_=totals.c.delivered * 1.0 / attempts)
        order = (case((HELD_OR_NOT_CLOSED, 0), else_=1), worst) if sort == "health" else (attempts.desc(),)
        statement = statement.order_by(*order)
    elif sort == "url":
        statement = statement.order_by(col(Endpoint.url))
    rows = await session.execute(statement.order_by(col(Endpoint.gid).desc()).offset(skip).limit(limit + 1))
    views = [EndpointRow(*row) for row in rows]
    return views[:limit], len(views) > limit


async def named(session: AsyncSession, wanted: str, *, limit: int) -> Sequence[Endpoint]:
    """Endpoints whose URL or description contains a text; exact matches first, then the newest."""
    url, description = col(Endpoint.url), col(Endpoint.description)
    is_exact = case((or_(url == wanted, description == wanted), 0), else_=1)
    rows = await session.execute(
        select(Endpoint)
        .where(
            col(Endpoint.deleted_at).is_(None),
            or_(url.icontains(wanted, autoescape=True), description.icontains(wanted, autoescape=True)),
        )
        .order_by(is_exact, col(Endpoint.gid).desc())
        .limit(limit)
    )
    return rows.scalars().all()


def listed() -> Select[*tuple[Any, ...]]:
    return (
        select(Endpoint, CircuitRow, col(Tenant.name))
        .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Endpoint.gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(col(Endpoint.deleted_at).is_(None))
    )


def _conditions(chosen: EndpointFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for word in chosen.search.split()[:5]:
        places = (col(Endpoint.url), col(Endpoint.description), col(Endpoint.gid), col(Tenant.name))
        conditions.append(or_(*(place.icontains(word, autoescape=True) for place in places)))
    match chosen.state:
        case "closed":
            conditions += [col(CircuitRow.state) == CircuitState.CLOSED, col(CircuitRow.hold).is_(None)]
        case "failing":
            conditions += [NOT_CLOSED, col(CircuitRow.hold).is_(None)]
        case "paused" | "disabled":
            conditions.append(col(CircuitRow.hold) == Hold(chosen.state))
    return conditions


def _totals(since: datetime) -> Any:
    minute = EndpointMinute
    attempts = col(minute.delivered) + col(minute.retried) + col(minute.rejected)
    return (
        select(
            col(minute.endpoint_gid),
            total(col(minute.delivered)).label("delivered"),
            total(attempts).label("attempts"),
        )
        .where(col(minute.minute) >= since)
        .group_by(col(minute.endpoint_gid))
        .subquery()
    )


async def traffic(session: AsyncSession, gids: Sequence[str], since: datetime) -> Mapping[str, list[EndpointTraffic]]:
    """The traffic of these endpoints since a moment, minute by minute."""
    minute = EndpointMinute
    rows: Result[Any] = await session.execute(
        select(
            col(minute.endpoint_gid),
            col(minute.minute),
            col(minute.delivered),
            (col(minute.retried) + col(minute.rejected)).label("failed"),
        ).where(col(minute.endpoint_gid).in_(gids), col(minute.minute) >= since)
    )
    found: defaultdict[str, list[EndpointTraffic]] = defaultdict(list)
    for row in rows:
        found[row.endpoint_gid].append(EndpointTraffic(row.minute, row.delivered, row.failed))
    return found


async def dead_letters(session: AsyncSession, gids: Sequence[str]) -> Mapping[str, int]:
    rows = await session.execute(
        select(col(Delivery.endpoint_gid), func.count())
        .where(col(Delivery.status) == DeliveryStatus.DEAD_LETTERED, col(Delivery.endpoint_gid).in_(gids))
        .group_by(col(Delivery.endpoint_gid))
    )
    return {row[0]: row[1] for row in rows}


async def circuit_events(session: AsyncSession, gid: str, since: datetime, limit: int) -> list[OperationalEvent]:
    """The events of an endpoint's circuit since a moment, oldest first, after the last one before it."""
    of_endpoint = (col(OperationalEvent.endpoint_gid) == gid, col(OperationalEvent.kind).in_(CIRCUIT_EVENTS))
    first = first_gid_at(Kind.EVENT, since)
    newest = select(OperationalEvent).order_by(col(OperationalEvent.gid).desc())
    within = await session.execute(newest.where(*of_endpoint, col(OperationalEvent.gid) >= first).limit(limit))
    before = await session.execute(newest.where(*of_endpoint, col(OperationalEvent.gid) < first).limit(1))
    return [*before.scalars(), *reversed(within.scalars().all())]


async def recent_attempts(session: AsyncSession, gid: str, *, deliveries: int, limit: int) -> list[AttemptRow]:
    """The newest attempts of an endpoint's newest deliveries."""
    newest = (
        select(col(Delivery.gid))
        .where(col(Delivery.endpoint_gid) == gid)
        .order_by(col(Delivery.gid).desc())
        .limit(deliveries)
    )
    rows = await session.execute(
        select(Attempt, Delivery)
        .join(Delivery, col(Delivery.gid) == col(Attempt.delivery_gid))
        .where(col(Attempt.delivery_gid).in_(newest.scalar_subquery()))
        .order_by(col(Attempt.started_at).desc())
        .limit(limit)
    )
    return [AttemptRow(*row) for row in rows]


async def subscriptions_of(session: AsyncSession, gid: str) -> Sequence[Subscription]:
    rows = await session.execute(
        select(Subscription).where(col(Subscription.endpoint_gid) == gid).order_by(col(Subscription.gid))
    )
    return rows.scalars().all()
