"""Settled workflows: in the background, at a bounded rate, giving way to everything else."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col
from structlog.testing import capture_logs
from temporalio.common import WorkflowIDReusePolicy
from temporalio.service import RPCError

from everhook.contracts import AttemptOutcome, DeliveryInput, PreviousAttempt, Verdict
from everhook.delivery import history as module
from everhook.delivery import traffic as traffic_module
from everhook.delivery.history import History, HistoryLimits
from everhook.delivery.traffic import Traffic
from everhook.ids import Kind, new_gid
from everhook.observability.metrics import REGISTRY
from everhook.storage.engine import Database
from everhook.storage.tables import PendingHistory, now
from testing.waiting import assert_eventually
from tests.delivery.fakes import AWAY, INVALID, OVERLOADED, FakeTemporal, HeldDatabase
from tests.stores.past import keep

UNBOUNDED = HistoryLimits(per_second=1_000_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AWAY_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "CONFIRM_INTERVAL_S", 0.02)


@pytest.fixture
def make(database: Database, temporal: FakeTemporal) -> Callable[..., History]:
    def made(limits: HistoryLimits = UNBOUNDED, is_busy: Callable[[], bool] = lambda: False, **changes: Any) -> History:
        traffic = changes.get("traffic", Traffic(is_starting=is_busy))
        return History(temporal.client, changes.get("database", database), traffic, limits)

    return made


async def settled(database: Database, count: int) -> list[DeliveryInput]:
    """Orders of deliveries that were delivered before they had a workflow, and are noted as such."""
    outcome = AttemptOutcome(Verdict.DELIVERED, status_code=200, attempt_gid="att_1", duration_ms=5)
    inputs = [
        DeliveryInput(
            new_gid(Kind.DELIVERY),
            "msg_1",
            "ep_1",
            "acme",
            "orders",
            "order.created",
            previous=PreviousAttempt(outcome),
        )
        for _ in range(count)
    ]
    await keep(database, *(PendingHistory(delivery_gid=input.delivery_gid, settled_at=now()) for input in inputs))
    return inputs


async def pending(database: Database) -> list[str]:
    async with database.reading() as session:
        found = await session.execute(
            select(col(PendingHistory.delivery_gid)).order_by(col(PendingHistory.delivery_gid))
        )
        return list(found.scalars())


def gids(inputs: list[DeliveryInput]) -> list[str]:
    return [input.delivery_gid for input in inputs]


def add_all(history: History, inputs: list[DeliveryInput]) -> None:
    for input in inputs:
        history.add(input)


async def until_started(temporal: FakeTemporal, inputs: list[DeliveryInput]) -> None:
    def all_started() -> None:
        assert sorted(temporal.started) == sorted(gids(inputs))

    await assert_eventually(all_started)


async def test_delivered_deliveries_get_their_workflow_and_are_then_forgotten(
    database: Database, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    inputs = await settled(database, 5)
    history = make()
    for input in inputs[:4]:
        history.add(input)
    await until_started(temporal, inputs[:4])

    async def forgotten() -> None:
        assert await pending(database) == [inputs[4].delivery_gid]

    await assert_eventually(forgotten)
    assert all(start.options["id_reuse_policy"] is WorkflowIDReusePolicy.REJECT_DUPLICATE for start in temporal.starts)
    assert {start.options["priority"].priority_key for start in temporal.starts} == {5}
    await history.close()


async def test_the_number_of_starts_in_flight_is_limited(
    database: Database, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    inputs = await settled(database, 10)
    history = make(HistoryLimits(concurrency=2, per_second=1_000_000))
    add_all(history, inputs)
    await until_started(temporal, inputs)
    assert temporal.most_under_way == 2
    await history.close()


async def test_the_number_of_starts_per_second_is_limited(
    database: Database, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    inputs = await settled(database, 11)
    history = make(HistoryLimits(concurrency=8, per_second=50))
    began = time.monotonic()
    add_all(history, inputs)
    await until_started(temporal, inputs)
    assert time.monotonic() - began >= 10 / 50
    await history.close()


def flowing(history: History) -> History:
    history._traffic.began()
    history._traffic.ended()
    return history


async def test_starts_are_spread_while_fresh_messages_flow(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVEN_RATE", 20.0)
    inputs = await settled(database, 6)
    history = flowing(make())
    began = time.monotonic()
    add_all(history, inputs)
    await until_started(temporal, inputs)
    assert time.monotonic() - began >= 5 / 20
    await history.close()


async def test_many_starts_are_spread_over_a_second_and_not_longer(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVEN_RATE", 0.1)
    inputs = await settled(database, 40)
    history = flowing(make())
    began = time.monotonic()
    add_all(history, inputs)

    def half_are_started() -> None:
        assert len(temporal.started) >= 20

    await assert_eventually(half_are_started)
    assert time.monotonic() - began < 10, "at the least rate the second would start after 10 s"
    await history.close()


# Giving way


async def test_history_waits_until_the_process_is_not_busy(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "GIVE_WAY_S", 600.0)
    looks = 0
    busy = True

    def is_busy() -> bool:
        nonlocal looks
        looks += 1
        return busy

    inputs = await settled(database, 3)
    history = make(is_busy=is_busy)
    add_all(history, inputs)

    def has_looked_often() -> None:
        assert looks > 10

    await assert_eventually(has_looked_often)
    assert temporal.tried == []
    busy = False
    await until_started(temporal, inputs)
    await history.close()


async def test_settled_workflows_are_started_although_the_process_is_always_busy(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "GIVE_WAY_S", 0.05)
    inputs = await settled(database, 6)
    history = make(is_busy=lambda: True)
    add_all(history, inputs)
    await until_started(temporal, inputs)
    await history.close()


async def test_the_history_of_replayed_deliveries_waits_until_no_fresh_messages_flow(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic_module, "FLOWS_S", 600.0)
    monkeypatch.setattr(traffic_module, "REST_S", 600.0)
    traffic = Traffic(is_starting=lambda: False)
    history = make(traffic=traffic)
    traffic.began()
    traffic.ended()
    replayed, fresh = await settled(database, 4), await settled(database, 3)
    for input in replayed:
        history.add(input, replayed=True)
    for input in fresh:
        history.add(input)
    await until_started(temporal, [replayed[0], *fresh])
    monkeypatch.setattr(traffic, "_flows_until", 0.0)
    await until_started(temporal, [*replayed, *fresh])
    await history.close()


async def test_history_that_lags_for_too_long_is_skipped_and_counted(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = skipped()
    monkeypatch.setattr(module, "MAX_LAG", timedelta())
    history = make()
    for input in await settled(database, 3):
        history.add(input)

    async def given_up() -> None:
        assert (skipped() - before, await pending(database)) == (3, [])

    await assert_eventually(given_up)
    assert temporal.tried == []
    await history.close()


def skipped() -> float:
    return REGISTRY.get_sample_value("everhook_history_skipped_total") or 0.0


async def test_history_that_does_not_fit_in_memory_is_left_to_the_reconciler(
    database: Database, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    inputs = await settled(database, 5)
    history = make(HistoryLimits(concurrency=1, per_second=1_000_000, waiting=3))
    add_all(history, inputs)
    await until_started(temporal, inputs[:3])
    await history.close()
    assert await pending(database) == gids(inputs[3:])


# Temporal away


@pytest.mark.parametrize("error", [AWAY, OVERLOADED], ids=["away", "overloaded"])
async def test_settled_workflows_are_started_when_temporal_is_back(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], error: RPCError
) -> None:
    inputs = await settled(database, 6)
    temporal.error = error
    history = make()
    add_all(history, inputs)

    def tried() -> None:
        assert len(temporal.tried) > 8

    await assert_eventually(tried)
    assert await pending(database) == gids(inputs)
    temporal.error = None
    await until_started(temporal, inputs)
    await history.close()


async def test_a_refused_start_is_logged_and_the_others_are_started(
    database: Database, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    inputs = await settled(database, 3)
    temporal.refused = {inputs[0].delivery_gid: INVALID}
    history = make(HistoryLimits(concurrency=1, per_second=1_000_000))
    with capture_logs() as logs:
        for input in inputs:
            history.add(input)
        await until_started(temporal, inputs[1:])
    await history.close()
    assert [(line["log_level"], line["delivery_gid"]) for line in logs] == [("error", inputs[0].delivery_gid)]
    assert temporal.tried.count(inputs[0].delivery_gid) == 1
    assert await pending(database) == [inputs[0].delivery_gid]


async def test_starts_under_way_are_finished_and_the_others_left_when_the_process_ends(
    database: Database, temporal: FakeTemporal, make: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONFIRM_INTERVAL_S", 600.0)
    inputs = await settled(database, 4)
    temporal.gate.clear()
    history = make(HistoryLimits(concurrency=2, per_second=1_000_000))
    add_all(history, inputs)

    def two_under_way() -> None:
        assert temporal.under_way == 2

    await assert_eventually(two_under_way)
    closing = asyncio.create_task(history.close())
    await asyncio.sleep(0)
    temporal.gate.set()
    await closing
    assert temporal.started == gids(inputs[:2])
    assert await pending(database) == gids(inputs[2:])
    history.add(inputs[2])
    assert temporal.tried == gids(inputs[:2])


async def test_a_write_under_way_is_finished_when_the_process_ends(
    database: Database, held_database: HeldDatabase, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    """One that is cancelled while it connects may leak its connection, and the next one waits for that in vain."""
    inputs = await settled(database, 1)
    history = make(database=held_database)
    history.add(inputs[0])

    def writing() -> None:
        assert held_database.waiting == 1

    await assert_eventually(writing)
    closing = asyncio.create_task(history.close())
    for _ in range(10):
        await asyncio.sleep(0)
    held_database.gate.set()
    await closing
    assert (await pending(database), held_database.cancelled) == ([], 0)


async def test_a_process_can_end_while_temporal_and_the_database_are_away(
    database: Database, lost_database: Database, temporal: FakeTemporal, make: Callable[..., History]
) -> None:
    inputs = await settled(database, 3)
    history = make(database=lost_database)
    history.add(inputs[0])
    await until_started(temporal, inputs[:1])
    temporal.error = AWAY
    for input in inputs[1:]:
        history.add(input)
    async with asyncio.timeout(30):
        await history.close()
    assert await pending(database) == gids(inputs)
