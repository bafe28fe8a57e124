"""The reconciler: short passes that go round by endpoint, in independent steps."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlmodel import col
from structlog.testing import capture_logs
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities import reconciling as module
from activities.reconciling import ReconcilingActivities
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import (
    AttemptOutcome,
    DeadLetterReason,
    DeliveryStatus,
    OutcomeReport,
    PreviousAttempt,
    ReconcileResult,
    ReconcileShare,
    Verdict,
)
from everhook.delivery.inputs_store import InputDefaults
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.traffic import Traffic
from everhook.ids import Kind, gid_endings, new_gid
from everhook.observability.metrics import REGISTRY
from everhook.publishing.schedules import MessageSchedules
from everhook.storage.engine import Database
from everhook.storage.tables import (
    Batch,
    BatchState,
    Delivery,
    Endpoint,
    PendingHistory,
    ReplayMode,
    Tenant,
    now,
)
from tests.activities.desk import FakeCircuits
from tests.delivery.fakes import AWAY, INVALID, OVERLOADED, FakeTemporal
from tests.stores.factories import Store, attempt_record, moment

HOUR = timedelta(hours=1)
GRACE = timedelta(minutes=3)
NOTHING = ReconcileResult()


@pytest.fixture
def temporal() -> FakeTemporal:
    return FakeTemporal()


@pytest.fixture
def circuits() -> FakeCircuits:
    return FakeCircuits()


@pytest.fixture
def reconciling(temporal: FakeTemporal, database: Database, circuits: FakeCircuits) -> ReconcilingActivities:
    return ReconcilingActivities(temporal.client, database, circuits, InputDefaults(), overdue_grace=GRACE)


async def reconcile(reconciling: ReconcilingActivities, share: ReconcileShare = ReconcileShare()) -> ReconcileResult:
    result: ReconcileResult = await ActivityEnvironment().run(reconciling.reconcile, share)
    return result


def reuse_policies(temporal: FakeTemporal) -> dict[str, WorkflowIDReusePolicy]:
    return {start.input.delivery_gid: start.options["id_reuse_policy"] for start in temporal.starts}


FIRST, AGAIN = WorkflowIDReusePolicy.REJECT_DUPLICATE, WorkflowIDReusePolicy.ALLOW_DUPLICATE


# What is overdue


async def test_a_delivery_that_a_process_left_without_a_workflow_gets_one(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    never_sent = await store.delivery()
    failed = await store.delivery(status=DeliveryStatus.RETRYING, attempts=1, last_status_code=503)
    await store.delivery(due_at=now() + HOUR)
    before = now()
    assert await reconcile(reconciling) == ReconcileResult(started=2)
    assert reuse_policies(temporal) == {never_sent.gid: FIRST, failed.gid: FIRST}
    previous = {input.delivery_gid: input.previous for input in temporal.inputs}
    outcome = AttemptOutcome(Verdict.RETRY, status_code=503)
    assert previous == {never_sent.gid: None, failed.gid: PreviousAttempt(outcome, failed.due_at)}
    for delivery, status in ((never_sent, DeliveryStatus.SENDING), (failed, DeliveryStatus.RETRYING)):
        row = await store.read(delivery)
        assert row.status is status and row.dispatched_at is not None
        assert row.due_at is not None and before + GRACE <= row.due_at <= now() + GRACE
    assert await reconcile(reconciling) == NOTHING


async def test_a_delivery_whose_workflow_was_lost_gets_another(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    lost = await store.delivery(dispatched_at=moment(), status=DeliveryStatus.SENDING)
    await store.delivery(dispatched_at=moment(), due_at=now() - GRACE / 2, status=DeliveryStatus.SENDING)
    assert await reconcile(reconciling) == ReconcileResult(restarted=1)
    assert reuse_policies(temporal) == {lost.gid: AGAIN}
    row = await store.read(lost)
    assert row.dispatched_at == moment() and row.due_at is not None and row.due_at > now()


async def test_a_pass_without_overdue_deliveries_starts_nothing_and_logs_nothing(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    await store.delivery(status=DeliveryStatus.DELIVERED, due_at=None, dispatched_at=moment())
    with capture_logs() as logs:
        assert await reconcile(reconciling) == NOTHING
    assert (temporal.tried, logs) == ([], [])


async def test_deliveries_of_a_tenant_that_is_being_erased_are_not_started_and_hold_nothing_up(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    endpoint = await store.endpoint(await store.tenant("acme"))
    await store.delivery(endpoint, dispatched_at=moment())
    await store.delivery(endpoint)
    other = await store.delivery(due_at=moment(9))
    async with store.database.writing() as session:
        await session.execute(update(Tenant).where(col(Tenant.name) == "acme").values(erasing_since=now()))
    assert await reconcile(reconciling) == ReconcileResult(started=1)
    assert temporal.started == [other.gid]


@pytest.mark.parametrize("refusal", [INVALID, OVERLOADED], ids=["invalid", "overloaded"])
async def test_a_start_that_temporal_refuses_fails_alone_and_is_tried_again_later(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, refusal: RPCError
) -> None:
    rows = await store.deliveries(5)
    temporal.refused = {rows[1].gid: refusal}
    with capture_logs() as logs:
        assert await reconcile(reconciling) == ReconcileResult(started=4)
    assert [line["delivery_gid"] for line in logs if line["log_level"] == "error"] == [rows[1].gid]
    assert sorted(temporal.started) == sorted(row.gid for row in rows if row is not rows[1])
    refused = await store.read(rows[1])
    assert (refused.status, refused.dispatched_at) == (DeliveryStatus.ACCEPTED, None)
    assert refused.due_at is not None and refused.due_at > now()


@pytest.mark.parametrize("error", [AWAY, RuntimeError("cannot connect")], ids=["away", "never connected"])
async def test_a_pass_fails_while_temporal_is_away_and_puts_nothing_off(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, error: Exception
) -> None:
    delivery = await store.delivery()
    temporal.error = error
    with pytest.raises(type(error)):
        await reconcile(reconciling)
    row = await store.read(delivery)
    assert (row.dispatched_at, row.due_at) == (None, moment())


# Fairness, in time and in shares


async def test_an_endpoint_with_very_many_does_not_delay_the_one_of_another(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 20)
    monkeypatch.setattr(module, "ENDPOINT_SHARE", 5)
    many = await store.deliveries(120, await store.subscribed())
    others = [await store.delivery(await store.subscribed(), due_at=moment(9)) for _ in range(2)]
    assert await reconcile(reconciling) == ReconcileResult(started=122)
    assert {row.gid for row in others} <= set(temporal.started[:7])
    assert sorted(temporal.started) == sorted(row.gid for row in [*many, *others])


@pytest.fixture
def second_a_start(temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the reconciler each start takes a second."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(len(temporal.tried))))


@pytest.mark.usefixtures("second_a_start")
async def test_a_pass_ends_in_time_and_says_that_there_is_more(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PASS_S", 15.0)
    monkeypatch.setattr(module, "ENDPOINT_SHARE", 10)
    rows = await store.deliveries(100)
    results = [await reconcile(reconciling)]
    assert results == [ReconcileResult(started=20, more=True)]
    while results[-1].more:
        results.append(await reconcile(reconciling))
    assert sum(result.started for result in results) == 100
    assert sorted(temporal.started) == sorted(row.gid for row in rows)


async def test_the_shares_of_a_pass_are_disjoint_and_complete(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    rows = [await store.delivery(await store.endpoint()) for _ in range(24)]
    started: list[str] = []
    for index in range(4):
        result = await reconcile(reconciling, ReconcileShare(index, 4))
        of_share = temporal.inputs[len(started) :]
        assert result.started == len(of_share)
        assert {input.endpoint_gid[-1] for input in of_share} <= set(gid_endings(index, 4))
        started = temporal.started
    assert sorted(started) == sorted(row.gid for row in rows)


@given(parts=st.integers(1, 32), gids=st.lists(st.builds(lambda: new_gid(Kind.ENDPOINT)), max_size=20))
def test_each_endpoint_is_in_exactly_one_share(parts: int, gids: list[str]) -> None:
    endings = [gid_endings(part, parts) for part in range(parts)]
    assert ("" in endings) == (parts == 1)
    for gid in gids:
        assert sum(not ending or gid[-1] in ending for ending in endings) == 1


async def test_only_the_first_share_does_what_is_not_shared(
    reconciling: ReconcilingActivities, store: Store, circuits: FakeCircuits, temporal: FakeTemporal
) -> None:
    await everything(store)
    await reconcile(reconciling, ReconcileShare(1, 4))
    assert circuits.reports == [] and await store.count(PendingHistory) == 1


# Circuits and parked deliveries


async def test_stalled_circuits_and_stranded_endpoints_are_reported(
    reconciling: ReconcilingActivities, store: Store, circuits: FakeCircuits
) -> None:
    stalled, stranded = await store.endpoint(), await store.endpoint()
    long_ago = now() - HOUR
    await store.circuit(stalled, state=CircuitState.OPEN, until=long_ago, updated_at=long_ago)
    await store.delivery(stranded, status=DeliveryStatus.PARKED, due_at=now() + HOUR)
    await store.circuit(stranded, updated_at=long_ago)
    assert await reconcile(reconciling) == ReconcileResult(endpoints=2)
    assert dict(circuits.reports) == {stalled.gid: OutcomeReport(), stranded.gid: OutcomeReport(stranded=True)}
    assert await reconcile(reconciling) == NOTHING


async def test_a_delivery_parked_at_a_paused_endpoint_past_its_window_keeps_waiting_without_a_workflow(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    paused = await store.endpoint()
    await store.circuit(paused, hold=Hold.PAUSED)
    rows = await store.deliveries(3, paused, status=DeliveryStatus.PARKED, parked_at=moment())
    assert await reconcile(reconciling) == NOTHING
    assert temporal.tried == []
    for delivery in rows:
        row = await store.read(delivery)
        assert (row.status, row.dispatched_at) == (DeliveryStatus.PARKED, None)
        assert row.due_at is not None and row.due_at > now() + HOUR / 2


async def test_no_delivery_parked_at_a_paused_endpoint_gets_a_workflow_however_many_there_are(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    for _ in range(3):
        paused = await store.endpoint()
        await store.circuit(paused, hold=Hold.PAUSED)
        await store.deliveries(5, paused, status=DeliveryStatus.PARKED, parked_at=moment())
    for index in (1, 0):  # the second share, without the first
        assert await reconcile(reconciling, ReconcileShare(index, parts=2)) == NOTHING
    assert temporal.tried == []


async def test_a_delivery_parked_at_an_open_circuit_past_its_window_gets_a_workflow_with_the_time_of_parking(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    broken = await store.endpoint()
    await store.circuit(broken, state=CircuitState.OPEN, updated_at=now())
    delivery = await store.delivery(broken, status=DeliveryStatus.PARKED, parked_at=moment(-9))
    assert await reconcile(reconciling) == ReconcileResult(started=1)
    (input,) = temporal.inputs
    assert (input.delivery_gid, input.parked_since) == (delivery.gid, moment(-9))


# Scheduled messages


async def test_a_page_of_scheduled_messages_that_are_refused_holds_up_no_other(
    temporal: FakeTemporal, database: Database, circuits: FakeCircuits
) -> None:
    pages = [(module.SCHEDULED_BATCH, 0), (module.SCHEDULED_BATCH, module.SCHEDULED_BATCH), (3, 2)]
    schedules = create_autospec(MessageSchedules, instance=True)
    schedules.deliver_overdue.side_effect = pages
    reconciling = ReconcilingActivities(
        temporal.client, database, circuits, InputDefaults(), overdue_grace=GRACE, schedules=schedules
    )
    assert await reconcile(reconciling) == ReconcileResult(started=module.SCHEDULED_BATCH + 2)
    assert schedules.deliver_overdue.await_count == len(pages)


# History


async def settled(store: Store, ago: timedelta) -> Delivery:
    """A delivery that was delivered this long ago, before it had a workflow."""
    delivery = await store.delivery()
    record = attempt_record(delivery, verdict=Verdict.DELIVERED, status_code=200, started_at=now() - ago, duration_ms=3)
    await Recorder(store.database).attempt(record, Transcript(), before_workflow=True)
    return delivery


async def pending(store: Store) -> list[str]:
    async with store.database.reading() as session:
        return list((await session.execute(select(col(PendingHistory.delivery_gid)))).scalars())


def skipped() -> float:
    return REGISTRY.get_sample_value("everhook_history_skipped_total") or 0.0


async def test_settled_workflows_that_a_process_did_not_start_are_started_and_very_late_ones_are_skipped(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    before = skipped()
    young, late, too_late = [await settled(store, timedelta(minutes=minutes)) for minutes in (4, 6, 61)]
    assert await reconcile(reconciling) == ReconcileResult(history=1)
    (start,) = temporal.starts
    assert start.input.delivery_gid == late.gid and start.input.is_delivered
    assert start.options["id_reuse_policy"] is FIRST
    assert (await pending(store), skipped() - before) == ([young.gid], 1)
    assert (await store.read(too_late)).status is DeliveryStatus.DELIVERED


async def test_a_settled_workflow_that_temporal_refuses_is_skipped_and_counted(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal
) -> None:
    before = skipped()
    rows = [await settled(store, timedelta(minutes=6)) for _ in range(2)]
    temporal.refused = {rows[0].gid: INVALID}
    assert await reconcile(reconciling) == ReconcileResult(history=1)
    assert (temporal.started, await pending(store), skipped() - before) == ([rows[1].gid], [], 1)


async def test_a_backlog_of_settled_workflows_is_worked_off_in_batches(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HISTORY_BATCH", 2)
    rows = [await settled(store, timedelta(minutes=6)) for _ in range(5)]
    assert await reconcile(reconciling) == ReconcileResult(history=5)
    assert sorted(temporal.started) == sorted(row.gid for row in rows)
    assert await pending(store) == []


async def test_few_settled_workflows_are_started_in_a_pass_while_fresh_messages_flow_in_this_process(
    store: Store, database: Database, circuits: FakeCircuits, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HISTORY_BATCH_WITH_FRESH", 2)
    traffic = Traffic(is_starting=lambda: False)
    reconciling = ReconcilingActivities(
        temporal.client, database, circuits, InputDefaults(), overdue_grace=GRACE, traffic=traffic
    )
    late = [await settled(store, timedelta(minutes=61)) for _ in range(3)]
    for _ in range(5):
        await settled(store, timedelta(minutes=6))
    signalled = await settled(store, timedelta(minutes=6))
    async with database.writing() as session:
        (await session.get_one(PendingHistory, signalled.gid)).signal = True
    traffic.began()
    assert await reconcile(reconciling) == ReconcileResult(history=2)
    assert signalled.gid in temporal.started
    assert not {signalled.gid, *(row.gid for row in late)}.intersection(await pending(store))
    monkeypatch.setattr(traffic, "_flows_until", 0.0)
    assert await reconcile(reconciling) == ReconcileResult(history=3)


# Dead letters


async def dead(store: Store, endpoint: Endpoint | None = None) -> Delivery:
    return await store.delivery(
        endpoint,
        status=DeliveryStatus.DEAD_LETTERED,
        reason=DeadLetterReason.EXHAUSTED,
        dead_lettered_at=now() - HOUR,
        dispatched_at=moment(),
        due_at=now() + 24 * HOUR,
    )


async def test_only_dead_letters_without_a_workflow_get_one_again(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAD_LETTER_PAGE", 2)
    rows = [await dead(store) for _ in range(7)]
    temporal.running = {row.gid for row in rows[2:6]}
    assert await reconcile(reconciling) == ReconcileResult(restarted=3)
    assert sorted(temporal.started) == sorted([rows[0].gid, rows[1].gid, rows[6].gid])
    assert set(reuse_policies(temporal).values()) == {AGAIN}
    await dead(store)
    assert await reconcile(reconciling) == NOTHING  # they are checked once a minute


async def test_a_minute_checks_a_bounded_number_of_dead_letters_and_the_next_one_continues(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAD_LETTER_PAGE", 1)
    monkeypatch.setattr(module, "DEAD_LETTER_PAGES", 2)
    monkeypatch.setattr(module, "DEAD_LETTER_AUDIT_S", 0.0)
    rows = [await dead(store) for _ in range(4)]
    temporal.running = {row.gid for row in rows[1:]}
    assert await reconcile(reconciling) == NOTHING
    assert await reconcile(reconciling) == ReconcileResult(restarted=1)
    assert temporal.started == [rows[0].gid]


async def test_a_page_of_dead_letters_is_checked_again_if_temporal_was_away_for_its_starts(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAD_LETTER_PAGE", 2)
    rows = [await dead(store) for _ in range(4)]
    temporal.running = {row.gid for row in rows[:2]}
    temporal.refused = {rows[3].gid: AWAY}
    with pytest.raises(RPCError):
        await reconcile(reconciling)
    temporal.refused = {}
    await reconcile(reconciling)
    assert sorted(temporal.started) == [rows[2].gid, rows[3].gid]


@pytest.mark.usefixtures("second_a_start")
async def test_very_many_dead_letters_are_restored_over_several_passes(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEAD_LETTER_PAGE", 3)
    monkeypatch.setattr(module, "PASS_S", 5.0)
    endpoint = await store.endpoint()
    rows = [await dead(store, endpoint) for _ in range(20)]
    results = [await reconcile(reconciling)]
    assert results == [ReconcileResult(restarted=6, more=True)]
    while results[-1].more:
        results.append(await reconcile(reconciling))
    assert sorted(temporal.started) == sorted(row.gid for row in rows)
    assert sum(result.restarted for result in results) == 20


@pytest.mark.usefixtures("second_a_start")
async def test_dead_letters_are_checked_once_a_pass_has_time_for_them(
    reconciling: ReconcilingActivities, store: Store, temporal: FakeTemporal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PASS_S", 4.0)
    await dead(store)
    await store.deliveries(5, await store.endpoint())
    assert await reconcile(reconciling) == ReconcileResult(started=5, more=True)
    assert await reconcile(reconciling) == ReconcileResult(restarted=1)


# Faults


async def everything(store: Store) -> None:
    """Something for each step to do."""
    await store.delivery(await store.endpoint())
    await settled(store, timedelta(minutes=6))
    await dead(store)
    stalled = await store.endpoint()
    await store.circuit(stalled, state=CircuitState.OPEN, until=now() - HOUR, updated_at=now() - HOUR)


STEPS = {
    "overdue": (None, "overdue_window", ReconcileResult(restarted=1, endpoints=1, history=1)),
    "circuits": ("circuit_store", "stranded", ReconcileResult(started=1, restarted=1, history=1)),
    "dead letters": (None, "load_dead_letters", ReconcileResult(started=1, endpoints=1, history=1)),
    "history": ("history", "pending", ReconcileResult(started=1, restarted=1, endpoints=1)),
}


@pytest.mark.parametrize(
    ("fault", "level"),
    [(ZeroDivisionError(), "error"), (OperationalError("SELECT", {}, Exception("away")), "warning")],
    ids=["a fault", "no database"],
)
@pytest.mark.parametrize(("place", "function", "others"), STEPS.values(), ids=STEPS)
async def test_a_fault_in_one_step_stops_no_other(
    reconciling: ReconcilingActivities,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    place: str | None,
    function: str,
    others: Any,
    fault: Exception,
    level: str,
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise fault

    await everything(store)
    monkeypatch.setattr(getattr(module, place) if place else module, function, broken)
    with capture_logs() as logs:
        assert await reconcile(reconciling) == others
    assert [line["log_level"] for line in logs if line["log_level"] != "info"] == [level]


async def test_an_entity_that_cannot_be_reached_stops_no_other_step(
    reconciling: ReconcilingActivities, store: Store, circuits: FakeCircuits
) -> None:
    await everything(store)
    circuits.failing = 1
    assert await reconcile(reconciling) == ReconcileResult(started=1, restarted=1, history=1)
    assert (await reconcile(reconciling)).endpoints == 1


# Replays of channels


async def test_a_replay_that_makes_no_progress_gets_its_workflow(
    reconciling: ReconcilingActivities, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    async def start(_: object, batch_gid: str) -> None:
        started.append(batch_gid)

    monkeypatch.setattr(module, "start_replay", start)
    times: dict[str, Any] = {
        "since": moment(),
        "until": moment(1),
        "actor": "ann",
        "channel": "orders",
        "mode": ReplayMode.ALL,
    }
    stalled = Batch(**times, updated_at=now() - HOUR)
    async with database.writing() as session:
        session.add_all([stalled, Batch(**times), Batch(**times, state=BatchState.CANCELLED, updated_at=now() - HOUR)])
    await reconcile(reconciling)
    await reconcile(reconciling)
    assert started == [stalled.gid]
