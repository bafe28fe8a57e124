"""The activity of a replay: pages at a bounded rate, and what is left when Temporal is unavailable."""

import time

import pytest
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities import replaying as module
from activities.replaying import ReplayingActivities
from everhook.contracts import DeliveryStatus, ReplayInput, ReplayProgress
from everhook.delivery import traffic
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs_store import InputDefaults
from everhook.redelivery.pages import ReplayPages
from everhook.storage.engine import Database
from everhook.storage.tables import Batch, BatchState, ReplayMode, now
from tests.delivery.fakes import AWAY, Collected, FakeTemporal
from tests.stores.factories import CHANNEL, Store

MANY = 8
RATE = 8.0
PAGE = 2


@pytest.fixture
async def batch(database: Database, store: Store) -> str:
    """A replay of a few delivered messages."""
    since = now()
    await store.deliveries(MANY, status=DeliveryStatus.DELIVERED, due_at=None, accepted_at=since)
    row = Batch(actor="ann", channel=CHANNEL, mode=ReplayMode.ALL, since=since, until=now())
    async with database.writing() as session:
        session.add(row)
    return row.gid


def activities(
    temporal: FakeTemporal, database: Database, store: Store, dispatcher: Dispatcher | None = None
) -> ReplayingActivities:
    pages = ReplayPages(database, store.acceptor(), InputDefaults())
    return ReplayingActivities(
        temporal.client, database, pages, lambda _: None, lambda _: None, dispatcher or Collected(), per_second=RATE
    )


async def replay(of: ReplayingActivities, batch: str) -> ReplayProgress:
    found: ReplayProgress = await ActivityEnvironment().run(of.replay_pages, ReplayInput(batch))
    return found


async def test_deliveries_start_no_faster_than_the_rate(batch: str, database: Database, store: Store) -> None:
    temporal = FakeTemporal()
    began = time.monotonic()
    progress = await replay(activities(temporal, database, store), batch)
    assert (progress.more, progress.started) == (False, MANY)
    assert {input.round for input in temporal.inputs} == {2}
    # The last page is not waited for.
    assert time.monotonic() - began >= (MANY - PAGE) / RATE
    async with database.reading() as session:
        row = await session.get(Batch, batch)
    assert row is not None and row.state is BatchState.COMPLETED


async def test_a_replay_is_slower_while_fresh_messages_flow(
    batch: str, database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RATE_WITH_FRESH", 0.5)
    monkeypatch.setattr(traffic, "FLOWS_S", 60.0)
    dispatcher = Collected()
    dispatcher.traffic.began()
    began = time.monotonic()
    progress = await replay(activities(FakeTemporal(), database, store, dispatcher), batch)
    assert progress.started == MANY
    assert time.monotonic() - began >= (MANY - PAGE) / (RATE * 0.5)


async def test_rounds_that_were_opened_while_temporal_is_away_are_left_to_the_reconciler(
    batch: str, database: Database, store: Store
) -> None:
    temporal = FakeTemporal()
    temporal.error = AWAY
    of = activities(temporal, database, store)
    with pytest.raises(RPCError):
        await replay(of, batch)
    temporal.error = None
    progress = await replay(of, batch)
    assert progress.started == MANY
    assert len(temporal.starts) == MANY - PAGE  # the first page was opened, and is not opened twice
    async with database.reading() as session:
        row = await session.get(Batch, batch)
    assert row is not None and row.started == MANY
