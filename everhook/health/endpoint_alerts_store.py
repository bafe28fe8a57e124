"""The alerts of endpoints: evaluated from the minute roll-ups, and stored with the events that report them.

Only endpoints that may have something to report are read: those with failed attempts or new dead letters since the last
evaluation, those whose circuit is not closed, those with a limit on response times and traffic, and those that were not
well. What is not pulled or decided in time becomes a dead letter without an attempt.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.circuit.machine import CircuitState
from everhook.circuit.store import NOT_CLOSED
from everhook.health.backlog_store import DEAD
from everhook.health.endpoint_alerts import (
    MAX_DEAD_LETTERS,
    MAX_OVER,
    AlertEvent,
    AlertLimits,
    AlertName,
    AlertState,
    RaisedAlert,
    Reading,
    evaluate,
    resolve,
)
from everhook.health.score import AttemptStats
from everhook.health.store import healths, stats_of_endpoints
from everhook.ids import Kind, first_gid_at
from everhook.notifications.events import EventKind
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.event_outbox import record_event
from everhook.storage.statements import insert_ignoring, total
from everhook.storage.tables import (
    CircuitRow,
    Delivery,
    Endpoint,
    EndpointAlerts,
    EndpointMinute,
    OperationalEvent,
    Tenant,
    now,
)

log = structlog.get_logger()

LATE = timedelta(minutes=2)
"""Attempts are recorded by the minute in which they ended, at most this much later."""

BUDGET_S = 10.0
"""Events are published by the same pass, and wait meanwhile."""

CHUNK = 500
"""Endpoints that are read and written together."""


@dataclass(frozen=True)
class _Subject:
    """An endpoint to evaluate, with its limits and its last state. `row` is None if that is the default."""

    endpoint_gid: str
    tenant_gid: str
    circuit: CircuitRow
    limits: AlertLimits
    row: EndpointAlerts | None

    @property
    def state(self) -> AlertState:
        return _state(self.row) if self.row is not None else AlertState()


class EndpointAlertEvaluator:
    """Evaluates the alerts of all endpoints. Two that run at the same time report each change once: a state is written
    only over the one that it follows from, in the transaction of its events."""

    def __init__(self, database: Database, defaults: AlertLimits) -> None:
        self._database = database
        self._defaults = defaults
        self._evaluated_at: datetime | None = None
        self._waiting: list[str] = []
        self._unreadable: set[str] = set()
        """The endpoints whose errors were logged."""

    @property
    def is_behind(self) -> bool:
        """Whether the last evaluation ran out of time. The next one continues there."""
        return bool(self._waiting)

    async def evaluate(self, moment: datetime | None = None) -> int:
        """Evaluate all endpoints once, or as many as there is time for. Returns how many events were recorded."""
        moment, until = moment or now(), time.monotonic() + BUDGET_S
        count = 0
        try:
            if not self._waiting:
                async with self._database.reading() as session:
                    self._waiting = sorted(await self._candidates(session, moment))
                self._evaluated_at = moment
            while self._waiting:
                some, self._waiting = self._waiting[:CHUNK], self._waiting[CHUNK:]
                count += await self._evaluate_some(some, moment)
                if time.monotonic() >= until:
                    break
        except Exception:
            self._waiting, self._evaluated_at = [], None  # the next one begins anew
            raise
        return count

    async def _candidates(self, session: AsyncSession, moment: datetime) -> set[str]:
        since = moment - MAX_OVER
        if self._evaluated_at is not None:
            since = max(since, self._evaluated_at - LATE)
        busy = select(col(EndpointMinute.endpoint_gid)).where(col(EndpointMinute.minute) >= since)
        failed = total(col(EndpointMinute.retried) + col(EndpointMinute.rejected))
        statements: list[Any] = [
            busy.group_by(col(EndpointMinute.endpoint_gid)).having(failed > 0),
            select(col(CircuitRow.endpoint_gid)).where(NOT_CLOSED),
            select(col(EndpointAlerts.endpoint_gid)),
            select(col(OperationalEvent.endpoint_gid))
            .where(
                col(OperationalEvent.kind) == EventKind.DEAD_LETTERED,
                col(OperationalEvent.gid) >= first_gid_at(Kind.EVENT, since),
                col(OperationalEvent.endpoint_gid).is_not(None),
            )
            .distinct(),
        ]
        if self._defaults.latency_above_ms is not None:
            statements.append(busy.distinct())
        else:
            timed = await _with_latency_limit(session)
            statements += [busy.where(condition).distinct() for condition in timed]
        found: set[str] = set()
        for statement in statements:
            found.update((await session.execute(statement)).scalars())
        return found

    async def _evaluate_some(self, gids: Sequence[str], moment: datetime) -> int:
        """Evaluate some endpoints together. One that cannot be evaluated, because something stored cannot be read, is
        logged, and the others are evaluated without it."""
        try:
            return await self._evaluate_together(gids, moment)
        except Exception as error:
            if is_unavailable(error):
                raise
            if len(gids) > 1:
                middle = len(gids) // 2
                return sum([await self._evaluate_some(half, moment) for half in (gids[:middle], gids[middle:])])
            if gids[0] not in self._unreadable:
                self._unreadable.add(gids[0])
                log.error("the alerts of an endpoint cannot be evaluated", endpoint_gid=gids[0], error=repr(error))
            return 0

    async def _evaluate_together(self, gids: Sequence[str], moment: datetime) -> int:
        async with self._database.reading() as session:
            subjects = await self._subjects(session, gids)
            readings = await _readings(session, subjects, moment)
        changed: list[tuple[_Subject, AlertState, Sequence[AlertEvent]]] = []
        for subject in subjects:
            state, events = evaluate(subject.state, readings[subject.endpoint_gid], subject.limits, moment)
            if state != subject.state:
                changed.append((subject, state, events))
        if not changed:
            return 0
        reported: list[tuple[str, Sequence[AlertEvent]]] = []
        async with self._database.writing() as session:
            for subject, state, events in changed:
                if await _replace(session, subject, state, moment):
                    reported.append((subject.endpoint_gid, events))
                    for event in events:
                        record_event(
                            session,
                            event.kind,
                            tenant_gid=subject.tenant_gid,
                            endpoint_gid=subject.endpoint_gid,
                            data=event.data,
                        )
        for gid, events in reported:
            if events:
                kinds = [event.kind.value for event in events]
                log.warning("alerts raised or cleared", kinds=kinds, endpoint_gid=gid)
        return sum(len(events) for _, events in reported)

    async def _subjects(self, session: AsyncSession, gids: Sequence[str]) -> list[_Subject]:
        rows = await session.execute(
            select(Endpoint, CircuitRow, col(Tenant.alerts), EndpointAlerts)
            .join(CircuitRow, col(CircuitRow.endpoint_gid) == col(Endpoint.gid))
            .join(Tenant, col(Tenant.gid) == col(Endpoint.tenant_gid))
            .outerjoin(EndpointAlerts, col(EndpointAlerts.endpoint_gid) == col(Endpoint.gid))
            .where(col(Endpoint.gid).in_(gids), col(Endpoint.deleted_at).is_(None))
        )
        return [
            _Subject(
                endpoint.gid, endpoint.tenant_gid, circuit, resolve(self._defaults, of_tenant, endpoint.alerts), alerts
            )
            for endpoint, circuit, of_tenant, alerts in rows
        ]


async def raised_alerts(session: AsyncSession, gids: Sequence[str]) -> Mapping[str, Mapping[AlertName, RaisedAlert]]:
    """The alerts that are raised now, by endpoint; endpoints without any are left out."""
    table = EndpointAlerts
    rows = await session.execute(
        select(col(table.endpoint_gid), col(table.raised)).where(col(table.endpoint_gid).in_(gids))
    )
    found: dict[str, Mapping[AlertName, RaisedAlert]] = {}
    for gid, stored in rows:
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # logged by the evaluation
            found[gid] = _raised(stored)
    return {gid: raised for gid, raised in found.items() if raised}


async def _with_latency_limit(session: AsyncSession) -> list[Any]:
    """Conditions on roll-ups: that the endpoint, or its tenant, has a limit on response times."""
    conditions = []
    for model, column in (
        (Endpoint, col(EndpointMinute.endpoint_gid)),
        (Tenant, col(EndpointMinute.tenant_gid)),
    ):
        rows = await session.execute(select(col(model.gid), col(model.alerts)).where(col(model.alerts).is_not(None)))
        gids = [gid for gid, alerts in rows if isinstance(alerts, dict) and alerts.get("latencyAboveMs") is not None]
        conditions += [column.in_(gids[start : start + CHUNK]) for start in range(0, len(gids), CHUNK)]
    return conditions


async def _readings(session: AsyncSession, subjects: Sequence[_Subject], moment: datetime) -> Mapping[str, Reading]:
    stats: dict[str, AttemptStats] = {}
    for over in {subject.limits.over for subject in subjects}:
        gids = [subject.endpoint_gid for subject in subjects if subject.limits.over == over]
        stats |= await stats_of_endpoints(session, _first_minute(moment, over), gids)
    scores = await healths(session, [subject.circuit for subject in subjects], moment)
    dead = await _dead_letters(session, [subject.endpoint_gid for subject in subjects])
    return {
        subject.endpoint_gid: Reading(
            stats.get(subject.endpoint_gid, AttemptStats()),
            dead.get(subject.endpoint_gid, 0),
            scores[subject.endpoint_gid],
            is_open=subject.circuit.state is not CircuitState.CLOSED,
        )
        for subject in subjects
    }


def _first_minute(moment: datetime, over: timedelta) -> datetime:
    return (moment - over).replace(second=0, microsecond=0)


async def _dead_letters(session: AsyncSession, gids: Sequence[str]) -> Mapping[str, int]:
    """How many dead letters each endpoint has, counted up to one more than the highest limit."""
    some = (
        select(literal(1).label("one"))
        .where(DEAD, col(Delivery.endpoint_gid) == col(Endpoint.gid))
        .limit(MAX_DEAD_LETTERS + 1)
        .correlate(Endpoint)
        .subquery()
    )
    count = select(func.count()).select_from(some).scalar_subquery()
    rows = await session.execute(select(col(Endpoint.gid), count).where(col(Endpoint.gid).in_(gids)))
    return {row[0]: row[1] for row in rows}


async def _replace(session: AsyncSession, subject: _Subject, state: AlertState, moment: datetime) -> bool:
    """Write the state by compare-and-set. False if another process has written one meanwhile. A default state has no
    row."""
    row, table = subject.row, EndpointAlerts
    values = {
        "level": state.level,
        "better_since": state.better_since,
        "raised": {name.value: _document(alert) for name, alert in state.raised.items()},
        "updated_at": moment,
    }
    if row is None:
        connection = await session.connection()
        own = {"endpoint_gid": subject.endpoint_gid, "tenant_gid": subject.tenant_gid, "version": 1}
        statement = insert_ignoring(connection, table, "endpoint_gid").values(own | values)
        written = await session.execute(statement.returning(col(table.endpoint_gid)))
        return written.one_or_none() is not None
    unchanged = [col(table.endpoint_gid) == subject.endpoint_gid, col(table.version) == row.version]
    change: Any = delete(table) if state.is_default else update(table).values(version=row.version + 1, **values)
    written = await session.execute(
        change.where(*unchanged).returning(col(table.endpoint_gid)),
        execution_options={"synchronize_session": False},
    )
    return written.one_or_none() is not None


def _document(alert: RaisedAlert) -> dict[str, Any]:
    return {
        "since": alert.since.isoformat(),
        "value": alert.value,
        "threshold": alert.threshold,
        "quietSince": alert.quiet_since.isoformat() if alert.quiet_since is not None else None,
    }


def _state(row: EndpointAlerts) -> AlertState:
    return AlertState(row.level, row.better_since, _raised(row.raised))


def _raised(stored: Mapping[str, Any]) -> Mapping[AlertName, RaisedAlert]:
    """Stored alerts. One that a newer version has written is left out."""
    known = {name.value: name for name in AlertName}
    return {
        known[name]: RaisedAlert(
            datetime.fromisoformat(alert["since"]),
            alert["value"],
            alert["threshold"],
            datetime.fromisoformat(alert["quietSince"]) if alert["quietSince"] is not None else None,
        )
        for name, alert in stored.items()
        if name in known
    }
