"""The values of alert rules, and their recorded transitions."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from everhook.delivery.store import IS_UNDISPATCHED
from everhook.health.alerts import AlertRule
from everhook.health.backlog_store import DEAD, waiting
from everhook.health.endpoint_alerts import AlertLimits
from everhook.health.endpoint_alerts_store import EndpointAlertEvaluator
from everhook.health.score import AttemptStats
from everhook.health.store import stats_by_endpoint
from everhook.health.unclaimed_store import report_unclaimed
from everhook.notifications.events import EventKind
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.storage.event_outbox import record_event
from everhook.storage.tables import Delivery, OperationalEvent, now

log = structlog.get_logger()

CLEARED_BELOW = 0.8
"""The fraction of `raise_at` at which an alert is cleared, where large values are bad."""


ENDPOINTS_EVERY_S = 60.0
"""How often single endpoints are evaluated: the queries read all endpoints that are pulled, and the roll-ups of an
hour."""


@dataclass(frozen=True)
class Limits:
    """When alerts are raised. 0 disables an alert.

    `success_rate` is computed over all endpoints and the last `success_window`, if there were at least
    `success_attempts`.
    """

    dead_letters: int = 100
    undispatched: timedelta = timedelta(minutes=2)
    success_rate: float = 0.9
    success_window: timedelta = timedelta(minutes=10)
    success_attempts: int = 50

    @classmethod
    def from_settings(cls, settings: Settings) -> "Limits":
        return cls(
            dead_letters=settings.alert_dead_letters,
            undispatched=timedelta(seconds=settings.alert_undispatched_seconds),
            success_rate=settings.alert_success_rate,
            success_window=timedelta(minutes=settings.alert_success_minutes),
            success_attempts=settings.alert_success_attempts,
        )


def endpoint_limits(settings: Settings) -> AlertLimits:
    """The limits of endpoints that set none."""
    return AlertLimits(
        success_rate_below=settings.endpoint_alert_success_rate or None,
        over=timedelta(minutes=settings.endpoint_alert_minutes),
        min_attempts=settings.endpoint_alert_attempts,
        dead_letters_above=settings.endpoint_alert_dead_letters or None,
        latency_above_ms=settings.endpoint_alert_latency_ms or None,
    )


class AlertEvaluator:
    """Records an event whenever an alert is raised or cleared. The last recorded event is the state, so any process
    can continue from it."""

    def __init__(self, database: Database, limits: Limits, of_endpoints: EndpointAlertEvaluator) -> None:
        self._database = database
        self._limits = limits
        self._of_endpoints = of_endpoints
        self._rules = tuple(_rules(limits))
        self._next_endpoints = 0.0

    async def evaluate(self) -> Sequence[EventKind]:
        """Evaluate all rules once. Returns the kinds that were raised or cleared; only those need the writer."""
        changed: list[EventKind] = []
        for rule, measure in self._rules:
            async with self._database.reading() as session:
                raised = await _is_raised(session, rule.kind)
                value = await measure(session, self._limits)
            transition = rule.transition(raised, value)
            if transition is not None:
                async with self._database.writing() as session:
                    record_event(session, rule.kind, data=_data(rule, transition, value))
                log.warning("alerts raised or cleared", kinds=[rule.kind.value])
                changed.append(rule.kind)
        if time.monotonic() >= self._next_endpoints:
            self._next_endpoints = time.monotonic() + ENDPOINTS_EVERY_S
            if await report_unclaimed(self._database):
                changed.append(EventKind.UNCLAIMED)
            if await self._of_endpoints.evaluate():
                changed.append(EventKind.HEALTH_CHANGED)
        elif self._of_endpoints.is_behind and await self._of_endpoints.evaluate():
            changed.append(EventKind.HEALTH_CHANGED)
        return changed


Measure = Callable[[AsyncSession, Limits], Awaitable[float | None]]


def _rules(limits: Limits) -> list[tuple[AlertRule, Measure]]:
    count, seconds, rate = limits.dead_letters, limits.undispatched.total_seconds(), limits.success_rate
    found: list[tuple[AlertRule, Measure]] = []
    if count:
        found.append((AlertRule(EventKind.DEAD_LETTERS, count, count * CLEARED_BELOW), _dead_letters))
    if seconds:
        found.append((AlertRule(EventKind.UNDISPATCHED, seconds, seconds * CLEARED_BELOW), _undispatched_seconds))
    if rate:
        # Half of the way to a perfect rate: 0.9 is cleared at 0.95.
        found.append((AlertRule(EventKind.SUCCESS_RATE, rate, (1 + rate) / 2, low=True), _success_rate))
    return found


def _data(rule: AlertRule, raised: bool, value: float | None) -> dict[str, Any]:
    return {"state": "raised" if raised else "cleared", "value": value, "threshold": rule.raise_at}


async def _is_raised(session: AsyncSession, kind: EventKind) -> bool:
    event = OperationalEvent
    last = select(col(event.data)).where(col(event.kind) == kind).order_by(col(event.gid).desc()).limit(1)
    data = (await session.execute(last)).scalar_one_or_none()
    return data is not None and data.get("state") == "raised"


async def _dead_letters(session: AsyncSession, limits: Limits) -> float:
    """Counted only up to the limit."""
    some = select(col(Delivery.gid)).where(DEAD).limit(limits.dead_letters).subquery()
    return float((await session.execute(select(func.count()).select_from(some))).scalar_one())


async def _undispatched_seconds(session: AsyncSession, limits: Limits) -> float:
    oldest = (await waiting(session, IS_UNDISPATCHED)).oldest
    return max(0.0, (now() - oldest).total_seconds()) if oldest is not None else 0.0


async def _success_rate(session: AsyncSession, limits: Limits) -> float | None:
    total = AttemptStats.total((await stats_by_endpoint(session, now() - limits.success_window)).values())
    return total.success_rate if total.attempts >= limits.success_attempts else None
