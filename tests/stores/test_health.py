"""Scores, charts and failure patterns from roll-ups, and the overview of them all."""

import asyncio
import re
import threading
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event, text

from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.endpoints import store as endpoints
from everhook.health import overview_store as health_board
from everhook.health.backlog_store import backlog
from everhook.health.overview_store import HealthBoard, Overview
from everhook.health.score import DAY, HOUR, AttemptStats, Health, Level, Window, score_endpoint
from everhook.health.store import EndpointHealth, endpoint_health
from everhook.storage.tables import Endpoint, EndpointMinute, EndpointMinuteError, now
from tests.stores.factories import Store, moment

NOW = moment(30 * 60 + 20)
"""12:30:20."""

MINUTE = timedelta(minutes=1)


async def minute(
    store: Store, endpoint: Endpoint, at: datetime, errors: dict[str, int] | None = None, **counts: int
) -> None:
    start = at.replace(second=0, microsecond=0)
    async with store.database.writing() as session:
        session.add(EndpointMinute(endpoint_gid=endpoint.gid, minute=start, tenant_gid=endpoint.tenant_gid, **counts))
        for error, count in (errors or {}).items():
            session.add(EndpointMinuteError(endpoint_gid=endpoint.gid, minute=start, error=error, count=count))


async def health(store: Store, endpoint: Endpoint, window: Window = Window.HOUR, at: datetime = NOW) -> EndpointHealth:
    circuit = await store.circuit(endpoint)
    async with store.database.reading() as session:
        return await endpoint_health(session, circuit, window, at)


async def overview(store: Store, tenant_gid: str | None = None) -> Overview:
    return await HealthBoard(store.database).overview(tenant_gid)


# One endpoint


async def test_the_score_looks_at_an_hour_a_day_and_the_circuit(store: Store) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.HALF_OPEN, failures=3)
    await minute(store, end, NOW, delivered=10, under_100=10)
    await minute(store, end, NOW - 2 * HOUR, retried=10)
    await minute(store, end, NOW - 25 * HOUR, rejected=1000)
    found = (await health(store, end)).health
    assert [part.reason for part in found.parts] == [
        "10 of 10 attempts delivered in the last hour",
        "10 of 20 attempts delivered in the last 24 hours",
        "of 10 responses in the last hour, 10 came within 0.5 s, 0 within 2 s, 0 later",
        "of 10 responses in the last 24 hours, 10 came within 0.5 s, 0 within 2 s, 0 later",
        "the circuit is half-open, 3 failures in a row",
    ]
    assert (found.score, found.level) == (65, Level.DEGRADED)


@pytest.mark.both_databases
async def test_another_endpoint_s_failures_are_not_charged(store: Store) -> None:
    mine, other = await store.endpoint(), await store.endpoint()
    await minute(store, other, NOW, {"refused": 100}, retried=100)
    found = await health(store, mine)
    assert (found.health.level, found.total, list(found.faults)) == (Level.IDLE, AttemptStats(), [])


@pytest.mark.parametrize(
    ("window", "first", "last", "steps"),
    [
        (Window.HOUR, moment(-29 * 60), moment(30 * 60), 60),
        (Window.DAY, moment(45 * 60) - DAY, moment(30 * 60), 96),
        (Window.WEEK, moment(2 * 3600) - 7 * DAY, moment(0), 84),
    ],
)
async def test_a_chart_has_every_step_of_its_window(
    store: Store, window: Window, first: datetime, last: datetime, steps: int
) -> None:
    end = await store.endpoint()
    await minute(store, end, NOW, delivered=3, duration_ms=30, under_100=3)
    await minute(store, end, first, retried=2)
    await minute(store, end, first - MINUTE, delivered=999)
    found = await health(store, end, window)
    buckets = found.series
    assert (buckets[0].since, buckets[-1].since, len(buckets)) == (first, last, steps)
    assert {later.since - sooner.since for sooner, later in pairwise(buckets)} == {window.bucket}
    assert (buckets[0].stats, buckets[-1].stats) == (
        AttemptStats(retried=2),
        AttemptStats(3, duration_ms=30, under_100=3),
    )
    assert found.total == AttemptStats(3, 2, duration_ms=30, under_100=3)


async def test_the_attempts_of_one_step_of_a_chart_are_summed(store: Store) -> None:
    end = await store.endpoint()
    for minutes in range(3):
        await minute(store, end, moment(minutes * 60), delivered=1, duration_ms=7)
    last = (await health(store, end, Window.DAY, moment(14 * 60))).series[-1]
    assert (last.since, last.stats) == (moment(), AttemptStats(3, duration_ms=21))


async def test_errors_are_counted_within_the_window_the_most_frequent_first(store: Store) -> None:
    end = await store.endpoint()
    await minute(store, end, NOW - 2 * HOUR, {"dns": 50})
    await minute(store, end, NOW - 5 * MINUTE, {"refused": 1, "http_503": 4})
    await minute(store, end, NOW, {"refused": 2})
    hour = (await health(store, end)).faults
    assert [(fault.error, fault.count) for fault in hour] == [("http_503", 4), ("refused", 3)]
    day = (await health(store, end, Window.DAY)).faults
    assert [(fault.error, fault.count) for fault in day] == [("dns", 50), ("http_503", 4), ("refused", 3)]


async def test_an_error_has_the_time_since_when_it_is_ongoing(store: Store) -> None:
    end = await store.endpoint()
    for minutes in (55, 54, 20, 10, 0):  # a pause of 34 minutes, then pauses of 10
        await minute(store, end, NOW - minutes * MINUTE, {"refused": 1})
    (fault,) = (await health(store, end)).faults
    assert (fault.count, fault.since, fault.last) == (5, moment(10 * 60), moment(30 * 60))


# All of them


async def test_the_overview_puts_the_worst_first_and_leaves_idle_ones_out(store: Store) -> None:
    good, bad, held, idle, gone = [await store.endpoint(description=name) for name in "gbhix"]
    await minute(store, good, now(), delivered=20, under_100=20)
    await minute(store, bad, now(), {"refused": 20}, retried=20)
    await store.circuit(held, hold=Hold.DISABLED)
    await minute(store, gone, now(), retried=20)
    async with store.database.writing() as session:
        await endpoints.remove(session, gone)
    found = await overview(store)
    assert [(one.endpoint.gid, one.health.score) for one in found.worst] == [
        (held.gid, 0),
        (bad.gid, 29),
        (good.gid, 100),
    ]
    assert found.worst[1].hour == AttemptStats(retried=20)
    assert found.backlog.circuits == {"closed": 3, "disabled": 1}
    assert idle.gid not in {one.endpoint.gid for one in found.worst}


async def test_the_overview_adds_up_the_last_hour(store: Store) -> None:
    for _ in range(2):
        end = await store.endpoint()
        await minute(store, end, now(), delivered=5, under_500=5, duration_ms=1_000)
        await minute(store, end, now() - 2 * HOUR, retried=7)
    found = await overview(store)
    assert found.hour == AttemptStats(10, under_500=10, duration_ms=2_000)
    assert len(found.series) == 60


async def test_the_overview_shows_patterns_of_failure(store: Store) -> None:
    ends = [await store.endpoint() for _ in range(3)]
    for end in ends:
        await minute(store, end, now(), {"http_503": 2})
    began = (now() - 100 * MINUTE).replace(second=0, microsecond=0)
    for minutes in range(10, 110, 10):  # for 100 minutes without a longer pause
        await minute(store, ends[0], now() - minutes * MINUTE, {"timeout_total": 1})
    first, second = (await overview(store)).faults
    assert (first.error, first.count, first.endpoints) == ("http_503", 6, 3)
    assert (second.error, second.endpoints, second.since) == ("timeout_total", 1, began)
    assert 5 <= second.count <= 6


async def test_the_overview_counts_what_waits_and_what_is_dead(store: Store) -> None:
    old = await store.delivery(gid="dlv_" + "0" * 26)
    later: dict[str, Any] = {"dispatched_at": now(), "due_at": now() + MINUTE}
    await store.deliveries(3, **later, status=DeliveryStatus.PARKED)
    dead = later | {"status": DeliveryStatus.DEAD_LETTERED}
    await store.deliveries(2, **dead, reason=DeadLetterReason.REJECTED)
    await store.deliveries(4, **dead, reason=DeadLetterReason.EXHAUSTED)
    await store.deliveries(2, dispatched_at=now(), status=DeliveryStatus.RETRYING, due_at=now() - 2 * MINUTE)
    await store.deliveries(1, **later, status=DeliveryStatus.RETRYING)
    found = await overview(store)
    assert old.dispatched_at is None
    assert found.backlog.overdue.count == 3, "the one not started, too"
    assert (found.backlog.undispatched.count, found.backlog.parked.count) == (1, 3)
    assert found.backlog.undispatched.oldest == datetime.fromisoformat("1970-01-01T00:00Z")
    assert found.backlog.parked.oldest is not None and now() - found.backlog.parked.oldest < MINUTE
    assert list(found.backlog.dead_letters.items()) == [
        (DeadLetterReason.EXHAUSTED, 4),
        (DeadLetterReason.REJECTED, 2),
    ]
    assert found.accepted == 12, "all but the old one"


@pytest.mark.both_databases
async def test_a_tenant_s_overview_is_of_its_own_endpoints_alone(store: Store) -> None:
    acme = await store.tenant("acme")
    mine, other = await store.endpoint(acme), await store.endpoint()
    for end in (mine, other):
        await minute(store, end, now(), {"refused": 10}, retried=10)
        await store.circuit(end, state=CircuitState.OPEN)
        await store.delivery(end)
        await store.delivery(end, status=DeliveryStatus.DEAD_LETTERED, reason=DeadLetterReason.REJECTED)
        await store.delivery(end, status=DeliveryStatus.PARKED)
    found = await overview(store, acme)
    assert [one.endpoint.gid for one in found.worst] == [mine.gid]
    assert found.hour == AttemptStats(retried=10)
    assert [(fault.count, fault.endpoints) for fault in found.faults] == [(10, 1)]
    assert found.backlog.circuits == {"open": 1}
    assert (found.backlog.parked.count, found.backlog.dead_letter_count, found.accepted) == (1, 1, 3)


@pytest.mark.both_databases
async def test_concurrent_callers_share_one_overview(store: Store) -> None:
    board = HealthBoard(store.database)
    first, *others = await asyncio.gather(*(board.overview(None) for _ in range(20)))
    assert all(other is first for other in others)


async def test_the_day_of_a_score_has_the_newest_minutes_too(store: Store) -> None:
    """What lies further back is looked at once a minute, what came since each time."""
    board = HealthBoard(store.database, cached_seconds=0)
    end = await store.endpoint()
    at = now()
    await minute(store, end, at - 2 * HOUR, delivered=5)
    await board.overview(None)
    await minute(store, end, at, retried=10)
    (worst,) = (await board.overview(None)).worst
    assert [part.reason for part in worst.health.parts][:2] == [
        "0 of 10 attempts delivered in the last hour",
        "5 of 15 attempts delivered in the last 24 hours",
    ]


async def test_an_empty_overview_is_healthy(store: Store) -> None:
    found = await overview(store)
    assert (found.accepted, list(found.worst), list(found.faults), found.hour) == (0, [], [], AttemptStats())
    assert (found.backlog.circuits, found.backlog.dead_letters) == ({}, {})
    assert found.backlog.parked.oldest is None


@pytest.mark.parametrize(("question", "index"), [
    ("dispatched_at IS NULL", "ix_delivery_undispatched"),
    ("due_at < ", "ix_delivery_due"),
    ("status = 'parked'", "ix_delivery_astray"),
    ("status = 'dead_lettered'", "ix_delivery_astray"),
])  # fmt: skip
async def test_each_count_of_the_backlog_uses_a_partial_index(store: Store, question: str, index: str) -> None:
    """As SQLite plans it, without statistics; PostgreSQL knows that most rows are not of that kind."""
    if not store.database.is_sqlite:
        pytest.skip("its planner uses statistics, which a test's few rows do not have")
    async with store.database.reading() as session:
        connection = await session.connection()
        asked: list[str] = []
        event.listen(connection.sync_connection, "before_cursor_execute", lambda *about: asked.append(about[2]))
        await backlog(session)
        (statement,) = (one for one in asked if question in one)
        plan = await session.execute(text("EXPLAIN QUERY PLAN " + re.sub(r"\?", "1", statement)))
        details = [row.detail for row in plan]
        assert any(f"INDEX {index} " in f"{detail} " for detail in details), details


async def test_the_event_loop_runs_while_many_endpoints_are_scored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judging each takes some microseconds, and there may be tens of thousands."""
    scored_in: list[str] = []

    def judged(*counts: Any) -> Health:
        scored_in.append(threading.current_thread().name)
        return score_endpoint(*counts)

    await minute(store, await store.endpoint(), now(), delivered=1)
    monkeypatch.setattr(health_board, "score_endpoint", judged)
    await overview(store)
    assert scored_in and threading.current_thread().name not in scored_in
