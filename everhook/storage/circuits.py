"""The projection of each endpoint's circuit: written by its entity workflow alone, read by senders."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Result, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.circuit import Circuit, CircuitState, Hold
from everhook.events import EventKind
from everhook.storage.events import record_event
from everhook.storage.tables import Circuit as CircuitRow
from everhook.storage.tables import Endpoint, Tenant, now


async def load_circuit(session: AsyncSession, endpoint_gid: str) -> Circuit | None:
    """None where there is no such endpoint, or no longer."""
    result = await session.execute(
        select(CircuitRow)
        .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
        .where(col(CircuitRow.endpoint_gid) == endpoint_gid, col(Endpoint.deleted_at).is_(None))
    )
    row = result.scalar_one_or_none()
    return as_circuit(row) if row is not None else None


def as_circuit(row: CircuitRow) -> Circuit:
    return Circuit(
        state=row.state,
        hold=row.hold,
        hold_reason=row.hold_reason,
        failures=row.failures,
        failing_since=row.failing_since,
        openings=row.openings,
        until=row.until,
        version=row.version,
    )


async def project(session: AsyncSession, endpoint_gid: str, circuit: Circuit) -> None:
    """Write what the entity says, unless something newer is there; a new state frees the probe's claim."""
    before = await session.get(CircuitRow, endpoint_gid, with_for_update=True)
    if before is None or before.version >= circuit.version:
        return
    endpoint = await session.get_one(Endpoint, endpoint_gid)
    for kind in _transitions(as_circuit(before), circuit):
        record_event(
            session,
            kind,
            tenant_gid=endpoint.tenant_gid,
            endpoint_gid=endpoint_gid,
            data={"failures": circuit.failures, "openings": circuit.openings, "reason": circuit.hold_reason},
        )
    if before.state is not circuit.state:
        before.probe_delivery_gid = before.probe_until = None
    before.state = circuit.state
    before.hold = circuit.hold
    before.hold_reason = circuit.hold_reason
    before.failures = circuit.failures
    before.failing_since = circuit.failing_since
    before.openings = circuit.openings
    before.until = circuit.until
    before.version = circuit.version
    before.updated_at = now()
    session.add(before)


def _transitions(before: Circuit, after: Circuit) -> list[EventKind]:
    kinds: list[EventKind] = []
    if before.state is not CircuitState.OPEN and after.state is CircuitState.OPEN:
        kinds.append(EventKind.CIRCUIT_OPENED)
    if before.state is not CircuitState.CLOSED and after.state is CircuitState.CLOSED:
        kinds.append(EventKind.CIRCUIT_CLOSED)
    if before.hold is not after.hold:
        lifted = EventKind.ENDPOINT_RESUMED if before.hold is Hold.PAUSED else EventKind.ENDPOINT_ENABLED
        told = {Hold.DISABLED: EventKind.ENDPOINT_DISABLED, Hold.PAUSED: EventKind.ENDPOINT_PAUSED, None: lifted}
        kinds.append(told[after.hold])
    return kinds


async def left_behind(connection: AsyncConnection, moment: datetime, quiet: timedelta) -> Sequence[tuple[str, str]]:
    """Endpoints whose circuit should have moved on by `moment` and did not: (endpoint gid, tenant).

    Their entity workflows may be gone. One that was woken within `quiet` is left alone.
    """
    rows: Result[Any] = await connection.execute(
        select(col(CircuitRow.endpoint_gid), col(Tenant.name).label("tenant"))
        .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(
            col(CircuitRow.state) != CircuitState.CLOSED,
            col(CircuitRow.until) < moment,
            col(CircuitRow.updated_at) < moment - quiet,
            col(Endpoint.deleted_at).is_(None),
        )
        .limit(1_000)
    )
    return [(row.endpoint_gid, row.tenant) for row in rows]


async def mark_woken(connection: AsyncConnection, endpoint_gids: Sequence[str]) -> None:
    await connection.execute(
        update(CircuitRow).where(col(CircuitRow.endpoint_gid).in_(endpoint_gids)).values(updated_at=now())
    )
