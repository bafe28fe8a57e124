"""The circuits in the database: written by the endpoint workflows only, read by publishers and senders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Result, Select, bindparam, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import col

from everhook.circuit.machine import Circuit, CircuitState, Hold
from everhook.contracts import DeliveryStatus
from everhook.delivery.limits import queue_limit
from everhook.notifications.events import EventKind
from everhook.storage.event_outbox import record_event
from everhook.storage.statements import table_of
from everhook.storage.tables import (
    Channel,
    CircuitRow,
    Delivery,
    Endpoint,
    PullItem,
    Subscription,
    Tenant,
    now,
)


@dataclass(frozen=True)
class EndpointState:
    """What decides about the next delivery to an endpoint: its version, its limits, and its circuit.

    `failures` are those in a row that the circuit counts now. `probe_until` is when the claim on the one probe of a
    half-open circuit ends. `is_deleted`: deliveries are dead-lettered, and none is parked. `leases` are those that
    consumers have; None: they were not counted.
    """

    version: int
    state: CircuitState
    hold: Hold | None
    failures: int
    probe_until: datetime | None
    rate_limit: float | None
    max_in_flight: int | None = None
    is_deleted: bool = False
    leases: int | None = None

    @property
    def queue_limit(self) -> float | None:
        """The rate limit that workflows know."""
        return queue_limit(self.rate_limit, self.max_in_flight)

    @property
    def sends(self) -> bool:
        """Whether deliveries are sent."""
        return self.state is CircuitState.CLOSED and self.hold is None

    def may_probe(self, moment: datetime) -> bool:
        """Whether the circuit is half-open and its probe is not claimed."""
        free = self.probe_until is None or self.probe_until < moment
        return self.state is CircuitState.HALF_OPEN and self.hold is None and free


MAX_STATES = 1_000


async def endpoint_states(
    connection: AsyncConnection, endpoint_gids: Sequence[str], *, lock_held: bool = False, count_leases: bool = False
) -> dict[str, EndpointState]:
    """The states of those endpoints that exist. Leases are counted on request: an endpoint may have thousands.

    `lock_held`: lock the states that do not allow sending until the transaction ends (`FOR SHARE`). A delivery that is
    parked because of such a state is then committed before the circuit can close, so the release finds it. SQLite needs
    no lock, because it has only one writer.
    """
    found: dict[str, EndpointState] = {}
    statement = _STATES_AND_LEASES if count_leases else _STATES
    for start in range(0, len(endpoint_gids), MAX_STATES):
        found |= await _states(connection, statement, endpoint_gids[start : start + MAX_STATES])
    held = sorted(gid for gid, state in found.items() if not state.sends)
    if held and lock_held and connection.dialect.name == "postgresql":
        for start in range(0, len(held), MAX_STATES):
            found |= await _states(connection, _LOCKED_STATES, held[start : start + MAX_STATES])
    return found


async def _states(
    connection: AsyncConnection, statement: Select[*tuple[Any, ...]], gids: Sequence[str]
) -> dict[str, EndpointState]:
    rows = await connection.execute(statement, {"gids": gids})
    return {row[0]: EndpointState(*row[1:]) for row in rows}


_STATES: Select[*tuple[Any, ...]] = (
    select(
        col(CircuitRow.endpoint_gid),
        col(Endpoint.version),
        col(CircuitRow.state),
        col(CircuitRow.hold),
        col(CircuitRow.failures),
        col(CircuitRow.probe_until),
        col(Endpoint.rate_limit),
        col(Endpoint.max_in_flight),
        col(Endpoint.deleted_at).is_not(None),
    )
    .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
    .where(col(CircuitRow.endpoint_gid).in_(bindparam("gids", expanding=True)))
)
_STATES_AND_LEASES = _STATES.add_columns(
    select(func.count())
    .where(col(PullItem.endpoint_gid) == col(CircuitRow.endpoint_gid), col(PullItem.consumer).is_not(None))
    .scalar_subquery()
)
_LOCKED_STATES = _STATES.order_by(col(CircuitRow.endpoint_gid)).with_for_update(read=True, of=table_of(CircuitRow))


async def load_circuit(session: AsyncSession, endpoint_gid: str) -> Circuit | None:
    """The circuit; None if there is no such endpoint, or if it was deleted."""
    result = await session.execute(
        select(CircuitRow)
        .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
        .where(col(CircuitRow.endpoint_gid) == endpoint_gid, col(Endpoint.deleted_at).is_(None))
    )
    row = result.scalar_one_or_none()
    return as_circuit(row) if row is not None else None


async def circuit_specs(
    session: AsyncSession | AsyncConnection, endpoint_gid: str
) -> Sequence[Mapping[str, Any] | None]:
    """The circuit settings that apply to an endpoint, the most specific last: those of the channels that it subscribes
    to, of which the oldest subscription decides, and its own."""
    channels = await session.execute(
        select(col(Channel.circuit))
        .join(Subscription, col(Subscription.channel) == col(Channel.name))
        .where(
            col(Subscription.endpoint_gid) == endpoint_gid,
            col(Subscription.enabled).is_(True),
            col(Channel.circuit).is_not(None),
        )
        .order_by(col(Subscription.gid).desc())
    )
    own = await session.execute(select(col(Endpoint.circuit)).where(col(Endpoint.gid) == endpoint_gid))
    return [*channels.scalars(), own.scalar_one_or_none()]


async def endpoints_with_workflow(connection: AsyncConnection, channel: str, after: str, limit: int) -> Sequence[str]:
    """Endpoints that subscribe to a channel and whose circuit has changed once, so that a workflow holds it: their gids
    after `after`, in order."""
    rows = await connection.execute(
        select(col(CircuitRow.endpoint_gid))
        .distinct()
        .join(Subscription, col(Subscription.endpoint_gid) == col(CircuitRow.endpoint_gid))
        .where(col(Subscription.channel) == channel, col(CircuitRow.version) > 0, col(CircuitRow.endpoint_gid) > after)
        .order_by(col(CircuitRow.endpoint_gid))
        .limit(limit)
    )
    return [row[0] for row in rows]


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
    """Write the circuit, unless the stored version is newer, and record the event. A new state frees the claim on
    the probe."""
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
        kind_by_hold = {
            Hold.DISABLED: EventKind.ENDPOINT_DISABLED,
            Hold.PAUSED: EventKind.ENDPOINT_PAUSED,
            None: lifted,
        }
        kinds.append(kind_by_hold[after.hold])
    return kinds


NOT_CLOSED = col(CircuitRow.state) != literal(
    CircuitState.CLOSED, type_=table_of(CircuitRow).c.state.type, literal_execute=True
)
"""Written like the condition of its index."""

HELD_OR_NOT_CLOSED = or_(NOT_CLOSED, col(CircuitRow.hold).is_not(None))


async def stalled_circuits(
    connection: AsyncConnection, moment: datetime, quiet: timedelta
) -> Sequence[tuple[str, str]]:
    """Endpoints whose circuit should have changed state by `moment` and did not: (endpoint gid, tenant).

    Their workflows may be lost. An endpoint that was woken within `quiet` is left out.
    """
    rows: Result[Any] = await connection.execute(
        select(col(CircuitRow.endpoint_gid), col(Tenant.name).label("tenant"))
        .join(Endpoint, col(Endpoint.gid) == col(CircuitRow.endpoint_gid))
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(
            NOT_CLOSED,
            col(CircuitRow.until) < moment,
            col(CircuitRow.updated_at) < moment - quiet,
            col(Endpoint.deleted_at).is_(None),
        )
        .limit(1_000)
    )
    return [(row.endpoint_gid, row.tenant) for row in rows]


async def stranded(connection: AsyncConnection, moment: datetime) -> Sequence[tuple[str, str]]:
    """Endpoints with parked deliveries although their circuit has been closed since before `moment`: (endpoint gid,
    tenant). The workflow that was releasing them is lost.

    The endpoints are found by a loose index scan, so the cost depends on the number of endpoints and not on that of
    parked deliveries.
    """
    first = select(func.min(col(Delivery.endpoint_gid)).label("gid")).where(_PARKED)
    endpoints = first.cte("endpoints", recursive=True)
    following = select(func.min(col(Delivery.endpoint_gid))).where(
        _PARKED, col(Delivery.endpoint_gid) > endpoints.c.gid
    )
    endpoints = endpoints.union_all(select(following.scalar_subquery()).where(endpoints.c.gid.is_not(None)))
    rows: Result[Any] = await connection.execute(
        select(endpoints.c.gid.label("endpoint_gid"), col(Tenant.name).label("tenant"))
        .join(CircuitRow, col(CircuitRow.endpoint_gid) == endpoints.c.gid)
        .join(Endpoint, col(Endpoint.gid) == endpoints.c.gid)
        .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
        .where(
            col(CircuitRow.state) == CircuitState.CLOSED,
            col(CircuitRow.hold).is_(None),
            col(CircuitRow.updated_at) < moment,
            col(Endpoint.deleted_at).is_(None),
        )
        .limit(1_000)
    )
    return [(row.endpoint_gid, row.tenant) for row in rows]


_PARKED = col(Delivery.status) == literal(
    DeliveryStatus.PARKED, type_=table_of(Delivery).c.status.type, literal_execute=True
)


async def touch(connection: AsyncConnection, endpoint_gids: Sequence[str]) -> None:
    """Mark circuits as woken. Rows are locked in sorted order, as publishers lock them; otherwise the two could
    deadlock."""
    statement = update(table_of(CircuitRow)).where(col(CircuitRow.endpoint_gid) == bindparam("b_gid"))
    moment = now()
    rows = [{"b_gid": gid, "b_now": moment} for gid in sorted(endpoint_gids)]
    await connection.execute(statement.values(updated_at=bindparam("b_now")), rows)


async def claim_probe(connection: AsyncConnection, endpoint_gid: str, delivery_gid: str, lease: timedelta) -> bool:
    """Claim the one probe of a half-open circuit, by compare-and-set. A claim ends with its lease."""
    moment = now()
    result = await connection.execute(
        update(CircuitRow)
        .where(
            col(CircuitRow.endpoint_gid) == endpoint_gid,
            col(CircuitRow.state) == CircuitState.HALF_OPEN,
            col(CircuitRow.hold).is_(None),
            or_(
                col(CircuitRow.probe_delivery_gid).is_(None),
                col(CircuitRow.probe_delivery_gid) == delivery_gid,
                col(CircuitRow.probe_until) < moment,
            ),
        )
        .values(probe_delivery_gid=delivery_gid, probe_until=moment + lease)
    )
    return bool(result.rowcount)


async def free_probe(connection: AsyncConnection, endpoint_gid: str, delivery_gids: Sequence[str]) -> None:
    """End the claim of a probe that was not sent, if one of these deliveries has it."""
    await connection.execute(
        update(CircuitRow)
        .where(col(CircuitRow.endpoint_gid) == endpoint_gid, col(CircuitRow.probe_delivery_gid).in_(delivery_gids))
        .values(probe_delivery_gid=None, probe_until=None)
    )
