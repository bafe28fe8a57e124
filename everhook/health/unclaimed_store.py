"""Endpoints whose deliveries wait to be pulled while no consumer takes any: the failure that webhooks do not have."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.circuit.machine import CircuitState
from everhook.contracts import DeliveryMode
from everhook.health.store import stats_of_endpoints
from everhook.notifications.events import EventKind
from everhook.storage.engine import Database
from everhook.storage.event_outbox import record_event
from everhook.storage.tables import CircuitRow, Endpoint, OperationalEvent, PullItem, now

log = structlog.get_logger()

OLDER_THAN = timedelta(minutes=10)
NO_CONSUMER_FOR = timedelta(minutes=5)
AT_MOST = 1_000
"""Endpoints in one pass. Further ones are reported by later passes."""


@dataclass(frozen=True)
class Unclaimed:
    """`oldest` is when the delivery that is available for the longest was queued."""

    endpoint_gid: str
    tenant_gid: str
    oldest: datetime


async def unclaimed(session: AsyncSession) -> Mapping[str, Unclaimed]:
    """Endpoints with a delivery that is older than ten minutes and could be handed out, but no open lease, and no
    attempt in the last five minutes. Endpoints that hand nothing out (paused, open circuit) are left out."""
    moment = now()
    mine = col(PullItem.endpoint_gid) == col(Endpoint.gid)
    waits = [
        mine,
        col(PullItem.available_at) <= moment - NO_CONSUMER_FOR,
        col(PullItem.is_last).is_(False),
        col(PullItem.queued_at) <= moment - OLDER_THAN,
    ]
    oldest = select(func.min(col(PullItem.queued_at))).where(*waits[:3]).scalar_subquery()
    rows = await session.execute(
        select(col(Endpoint.gid), col(Endpoint.tenant_gid), oldest)
        .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Endpoint.gid))
        .where(
            col(Endpoint.mode).in_([DeliveryMode.POLL, DeliveryMode.STREAM]),
            col(Endpoint.deleted_at).is_(None),
            col(CircuitRow.hold).is_(None),
            col(CircuitRow.state) == CircuitState.CLOSED,
            exists().where(*waits),
            ~exists().where(mine, col(PullItem.consumer).is_not(None), col(PullItem.lease_until) > moment),
        )
        .limit(AT_MOST)
    )
    found = {row[0]: Unclaimed(row[0], row[1], row[2]) for row in rows}
    busy = await stats_of_endpoints(session, moment - NO_CONSUMER_FOR, list(found)) if found else {}
    return {gid: each for gid, each in found.items() if gid not in busy}


async def report_unclaimed(database: Database) -> bool:
    """Record an event for each endpoint that became unclaimed, or no longer is. The last event of an endpoint is its
    state, so any process can continue from it. Returns whether there were any."""
    async with database.reading() as session:
        found = await unclaimed(session)
        raised = await _raised(session)
    changed = [(gid, gid in found) for gid in found.keys() ^ raised.keys()]
    if not changed:
        return False
    async with database.writing() as session:
        for gid, is_raised in changed:
            each = found.get(gid)
            tenant = each.tenant_gid if each is not None else raised[gid]
            waited = round((now() - each.oldest).total_seconds()) if each is not None else None
            data = {"state": "raised" if is_raised else "cleared", "oldestSeconds": waited}
            record_event(session, EventKind.UNCLAIMED, tenant_gid=tenant, endpoint_gid=gid, data=data)
    for gid, _ in changed:
        log.warning("alerts raised or cleared", kinds=[EventKind.UNCLAIMED.value], endpoint_gid=gid)
    return True


async def _raised(session: AsyncSession) -> Mapping[str, str | None]:
    """The endpoints whose last event says that they are unclaimed, with their tenants."""
    event = OperationalEvent
    last = (
        select(func.max(col(event.gid)).label("gid"))
        .where(col(event.kind) == EventKind.UNCLAIMED)
        .group_by(col(event.endpoint_gid))
        .subquery()
    )
    rows = await session.execute(
        select(col(event.endpoint_gid), col(event.tenant_gid), col(event.data)).join(last, last.c.gid == col(event.gid))
    )
    return {row[0]: row[1] for row in rows if row[2].get("state") == "raised"}
