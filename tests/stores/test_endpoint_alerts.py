"""Alerts of endpoints: read from roll-ups, reported once, and stored only for endpoints that are not well."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from structlog.testing import capture_logs

from everhook.circuit.machine import CircuitState
from everhook.contracts import DeliveryStatus
from everhook.endpoints import store as endpoints
from everhook.health import endpoint_alerts_store
from everhook.health.endpoint_alerts import AlertLimits, AlertName, AlertState
from everhook.health.endpoint_alerts_store import EndpointAlertEvaluator, raised_alerts
from everhook.health.score import Level
from everhook.notifications.events import EventKind
from everhook.storage.engine import Database
from everhook.storage.event_outbox import record_event
from everhook.storage.tables import Endpoint, EndpointAlerts, EndpointMinute, OperationalEvent, Tenant, now
from tests.stores.factories import Store

NOW = now().replace(second=30, microsecond=0)
MINUTE = timedelta(minutes=1)
LIMITS = AlertLimits()


async def minute(store: Store, endpoint: Endpoint, at: datetime = NOW, **counts: int) -> None:
    start = at.replace(second=0, microsecond=0)
    async with store.database.writing() as session:
        session.add(EndpointMinute(endpoint_gid=endpoint.gid, minute=start, tenant_gid=endpoint.tenant_gid, **counts))


async def evaluate(store: Store, at: datetime = NOW, limits: AlertLimits = LIMITS) -> int:
    return await EndpointAlertEvaluator(store.database, limits).evaluate(at)


async def recorded_events(store: Store) -> list[tuple[str, str | None, str]]:
    return [(each.kind, each.endpoint_gid, each.data.get("alert") or each.data["to"]) for each in await store.events()]


async def test_one_endpoint_that_fails_among_many_raises_its_alert(store: Store) -> None:
    tenant = await store.tenant("acme")
    failing = await store.endpoint(tenant)
    for _ in range(5):
        await minute(store, await store.endpoint(), delivered=1_000)
    await minute(store, failing, delivered=80, retried=20)
    assert await evaluate(store) == 2
    assert await recorded_events(store) == [
        (EventKind.HEALTH_CHANGED, failing.gid, "degraded"),
        (EventKind.ALERT_RAISED, failing.gid, "success_rate"),
    ]
    assert {each.tenant_gid for each in await store.events()} == {tenant}
    assert await store.count(EndpointAlerts) == 1
    async with store.database.reading() as session:
        alert = (await raised_alerts(session, [failing.gid]))[failing.gid][AlertName.SUCCESS_RATE]
    assert (alert.since, alert.value, alert.threshold) == (NOW, 0.8, 0.9)


async def test_an_alert_is_cleared_after_a_quiet_period_and_its_row_is_deleted(store: Store) -> None:
    end = await store.endpoint()
    await minute(store, end, NOW - timedelta(days=2), delivered=100)
    await minute(store, end, delivered=80, retried=20)
    await evaluate(store)
    later = NOW + timedelta(days=1, hours=1)  # the score is that of a day
    assert await evaluate(store, later) == 0
    assert await evaluate(store, later + 9 * MINUTE) == 0
    assert await evaluate(store, later + 10 * MINUTE) == 2
    assert (await recorded_events(store))[2:] == [
        (EventKind.HEALTH_CHANGED, end.gid, "healthy"),
        (EventKind.ALERT_CLEARED, end.gid, "success_rate"),
    ]
    assert await store.count(EndpointAlerts) == 0


@pytest.mark.both_databases
async def test_two_evaluations_at_once_report_each_change_once(store: Store, other_database: Database) -> None:
    for _ in range(20):
        await minute(store, await store.endpoint(), delivered=50, rejected=50)
    both = [EndpointAlertEvaluator(database, LIMITS) for database in (store.database, other_database)]
    counts = await asyncio.gather(*(each.evaluate(NOW) for each in both))
    assert sum(counts) == await store.count(OperationalEvent) == 40
    assert [await each.evaluate(NOW) for each in both] == [0, 0]
    counts = await asyncio.gather(*(each.evaluate(NOW + timedelta(days=2)) for each in both))
    assert sum(counts) == 0
    counts = await asyncio.gather(*(each.evaluate(NOW + timedelta(days=3)) for each in both))
    assert sum(counts) == 40 and await store.count(EndpointAlerts) == 0


@pytest.mark.parametrize("known", [False, True])
async def test_a_state_is_written_only_over_the_one_that_it_follows_from(store: Store, known: bool) -> None:
    end = await store.endpoint()
    await minute(store, end, delivered=50, rejected=50)
    if known:
        await evaluate(store)
    evaluator = EndpointAlertEvaluator(store.database, LIMITS)
    async with store.database.reading() as session:
        [subject] = await evaluator._subjects(session, [end.gid])
    for state in (AlertState(Level.DEGRADED), AlertState()):
        for expected in (True, False) if state.level is Level.DEGRADED else (False,):
            async with store.database.writing() as session:
                assert await endpoint_alerts_store._replace(session, subject, state, NOW) is expected


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("endpoint_alerts", "raised", '{"success_rate": {}}'),
        ("endpoint_alerts", "raised", "[]"),
        ("endpoint_alerts", "level", "splendid"),
        ("endpoint", "alerts", '{"overMinutes": "ten"}'),
        ("endpoint", "alerts", '{"overMinutes": 1e300}'),
        ("endpoint", "alerts", '["latencyAboveMs"]'),
    ],
)
async def test_a_row_that_cannot_be_read_stops_the_alerts_of_its_endpoint_alone(
    store: Store, table: str, column: str, value: str
) -> None:
    ends = [await store.endpoint() for _ in range(3)]
    for end in ends:
        await minute(store, end, delivered=80, retried=20)
    bad = ends[1].gid
    async with store.database.writing() as session:
        session.add(EndpointAlerts(endpoint_gid=bad, tenant_gid=ends[1].tenant_gid, level=Level.DEGRADED, raised={}))
    async with store.database.write_connection() as connection:
        where = "gid" if table == "endpoint" else "endpoint_gid"
        await connection.execute(
            text(f"UPDATE {table} SET {column} = :value WHERE {where} = :gid"), {"value": value, "gid": bad}
        )
    evaluator = EndpointAlertEvaluator(store.database, LIMITS)
    with capture_logs() as logs:
        assert await evaluator.evaluate(NOW) == 4
        assert await evaluator.evaluate(NOW) == 0
    assert {gid for _, gid, _ in await recorded_events(store)} == {ends[0].gid, ends[2].gid}
    assert [line["endpoint_gid"] for line in logs if line["log_level"] == "error"] == [bad]
    assert [line["endpoint_gid"] for line in logs if line["log_level"] == "warning"] == [ends[0].gid, ends[2].gid]
    async with store.database.reading() as session:
        assert (await raised_alerts(session, [end.gid for end in ends])).keys() == {ends[0].gid, ends[2].gid}


async def test_limits_of_the_tenant_and_of_the_endpoint_override_the_defaults(store: Store) -> None:
    tenant = await store.tenant("acme")
    async with store.database.writing() as session:
        (await session.get_one(Tenant, tenant)).alerts = {"successRateBelow": None, "latencyAboveMs": 300}
    patient = await store.endpoint(tenant)
    strict = await store.endpoint(tenant, alerts={"successRateBelow": 0.99, "minAttempts": 5, "latencyAboveMs": None})
    for end in (patient, strict):
        await minute(store, end, delivered=97, retried=3, under_500=100, duration_ms=40_000)
    slow = await store.endpoint(tenant)
    await minute(store, slow, delivered=100, under_500=100, duration_ms=40_000)
    await evaluate(store)
    raised = [(gid, alert) for kind, gid, alert in await recorded_events(store) if kind == EventKind.ALERT_RAISED]
    assert sorted(raised) == sorted([(patient.gid, "latency"), (strict.gid, "success_rate"), (slow.gid, "latency")])


async def test_dead_letters_are_counted_for_each_endpoint(store: Store) -> None:
    one, other = await store.endpoint(), await store.endpoint()
    for end, dead in ((one, 4), (other, 3)):
        await store.deliveries(dead, end, status=DeliveryStatus.DEAD_LETTERED, dispatched_at=now())
        await minute(store, end, delivered=999, rejected=1)
    await evaluate(store, limits=AlertLimits(dead_letters_above=3))
    assert await recorded_events(store) == [(EventKind.ALERT_RAISED, one.gid, "dead_letters")]


async def test_dead_letters_without_an_attempt_raise_the_alert(store: Store) -> None:
    """What is not pulled in time."""
    end = await store.endpoint()
    await store.deliveries(4, end, status=DeliveryStatus.DEAD_LETTERED, dispatched_at=now())
    async with store.database.writing() as session:
        record_event(session, EventKind.DEAD_LETTERED, tenant_gid=end.tenant_gid, endpoint_gid=end.gid, data={})
    assert await evaluate(store, limits=AlertLimits(dead_letters_above=3)) == 1
    assert (EventKind.ALERT_RAISED, end.gid, "dead_letters") in [
        (each.kind, each.endpoint_gid, each.data.get("alert")) for each in await store.events()
    ]


async def test_an_open_circuit_is_evaluated_without_traffic(store: Store) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.OPEN, failures=9)
    await evaluate(store)
    assert [(kind, level) for kind, _, level in await recorded_events(store)] == [
        (EventKind.HEALTH_CHANGED, Level.FAILING)
    ]


async def test_a_deleted_endpoint_has_no_alerts(store: Store) -> None:
    end = await store.endpoint()
    await minute(store, end, rejected=50)
    assert await evaluate(store) > 0
    async with store.database.writing() as session:
        row = await session.get_one(Endpoint, end.gid)
        await endpoints.remove(session, row)
    assert (await evaluate(store, NOW + MINUTE), await store.count(EndpointAlerts)) == (0, 0)


@pytest.mark.both_databases
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_evaluation_that_runs_out_of_time_is_continued(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_alerts_store, "CHUNK", 2)
    monkeypatch.setattr(endpoint_alerts_store, "BUDGET_S", 0.0)
    for _ in range(5):
        await minute(store, await store.endpoint(), rejected=50)
    evaluator = EndpointAlertEvaluator(store.database, LIMITS)
    assert [(await evaluator.evaluate(NOW), evaluator.is_behind) for _ in range(3)] == [
        (4, True),
        (4, True),
        (2, False),
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_healthy_endpoints_cost_a_few_queries_and_attempts_are_never_read(store: Store) -> None:
    for _ in range(30):
        await minute(store, await store.endpoint(), delivered=1_000)
    statements: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    engine = store.database._reader.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    evaluator = EndpointAlertEvaluator(store.database, LIMITS)
    assert await evaluator.evaluate(NOW) == 0
    assert len(statements) <= 8
    assert not any("attempt" in statement.split("WHERE")[0] for statement in statements)
