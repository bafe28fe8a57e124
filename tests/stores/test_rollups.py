"""What an endpoint did in each minute, counted as its attempts are recorded."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import SQLModel

from everhook.contracts import AttemptRecord, Verdict
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.rollups_store import BANDS_MS
from everhook.storage.engine import Database
from everhook.storage.tables import DEFAULT_TENANT_GID, Attempt, Endpoint, EndpointMinute, EndpointMinuteError
from tests.stores.factories import Store, attempt_record, moment

pytestmark = pytest.mark.both_databases


@pytest.fixture
def recorder(database: Database) -> Recorder:
    return Recorder(database)


async def rows(store: Store, model: type[SQLModel]) -> list[dict[str, Any]]:
    async with store.database.reading() as session:
        found = await session.execute(select(model).order_by(*model.__table__.primary_key))  # type: ignore[attr-defined]
        return [row.model_dump() for row in found.scalars()]


async def totals(store: Store, *names: str) -> tuple[int, ...]:
    found = await rows(store, EndpointMinute)
    return tuple(sum(row[name] for row in found) for name in names)


async def attempts_to(store: Store, endpoint: Endpoint, count: int, **changes: Any) -> list[AttemptRecord]:
    return [attempt_record(delivery, **changes) for delivery in await store.deliveries(count, endpoint)]


async def test_attempts_are_counted_in_the_minute_in_which_they_ended(store: Store, recorder: Recorder) -> None:
    end = await store.subscribed()
    early, late = await attempts_to(
        store, end, 2, verdict=Verdict.DELIVERED, status_code=200, started_at=moment(59.8), duration_ms=150
    )
    late = replace(late, duration_ms=250)
    await asyncio.gather(*(recorder.attempt(record, Transcript()) for record in (early, late)))
    first, second = await rows(store, EndpointMinute)
    assert first == {
        "endpoint_gid": end.gid, "minute": moment(0), "tenant_gid": DEFAULT_TENANT_GID, "delivered": 1, "retried": 0,
        "rejected": 0, "duration_ms": 150, "under_100": 0, "under_500": 1, "under_2000": 0, "slower": 0,
    }  # fmt: skip
    assert (second["minute"], second["delivered"], second["duration_ms"]) == (moment(60), 1, 250)


async def test_each_verdict_is_counted_and_each_error_by_its_name(store: Store, recorder: Recorder) -> None:
    end = await store.subscribed()
    records = [
        *await attempts_to(store, end, 2, verdict=Verdict.DELIVERED, status_code=204),
        *await attempts_to(store, end, 3, status_code=503, error="http_503"),
        *await attempts_to(store, end, 1, error="timeout_total"),
        *await attempts_to(store, end, 1, verdict=Verdict.REJECTED, status_code=404, error="http_404"),
    ]
    for record in records:
        await recorder.attempt(record, Transcript())
    assert await totals(store, "delivered", "retried", "rejected") == (2, 4, 1)
    counted = [(row["error"], row["count"]) for row in await rows(store, EndpointMinuteError)]
    assert counted == [("http_404", 1), ("http_503", 3), ("timeout_total", 1)]


@pytest.mark.parametrize(
    ("duration_ms", "band"),
    [(0, "under_100"), (99, "under_100"), (100, "under_500"), (499, "under_500"), (500, "under_2000"),
     (1_999, "under_2000"), (2_000, "slower"), (30_000, "slower")],
)  # fmt: skip
async def test_a_response_is_in_one_band(store: Store, recorder: Recorder, duration_ms: int, band: str) -> None:
    (record,) = await attempts_to(store, await store.subscribed(), 1, status_code=500, duration_ms=duration_ms)
    await recorder.attempt(record, Transcript())
    (row,) = await rows(store, EndpointMinute)
    assert {name: row[name] for name in (*BANDS_MS, "slower") if row[name]} == {band: 1}
    assert row["duration_ms"] == duration_ms


async def test_an_attempt_without_a_response_has_no_response_time(store: Store, recorder: Recorder) -> None:
    """A refused connection would make a dead endpoint look quick."""
    (record,) = await attempts_to(store, await store.subscribed(), 1, error="refused", duration_ms=1)
    await recorder.attempt(record, Transcript())
    assert await totals(store, "retried", "duration_ms", *BANDS_MS, "slower") == (1, 0, 0, 0, 0, 0)


async def test_an_attempt_recorded_again_and_again_is_counted_once(store: Store, recorder: Recorder) -> None:
    (record,) = await attempts_to(store, await store.subscribed(), 1, error="refused")
    await asyncio.gather(*(recorder.attempt(record, Transcript()) for _ in range(3)))
    await recorder.attempt(record, Transcript())
    await recorder.attempt(replace(record, attempt_gid="att_another"), Transcript())
    assert await totals(store, "retried") == (1,)
    assert [row["count"] for row in await rows(store, EndpointMinuteError)] == [1]


async def test_each_tenant_s_endpoints_are_counted_as_its_own(store: Store, recorder: Recorder) -> None:
    acme = await store.tenant("acme")
    ends = [await store.subscribed(acme), await store.subscribed()]
    for end in ends:
        (record,) = await attempts_to(store, end, 1, error="refused")
        await recorder.attempt(record, Transcript())
    found = {row["endpoint_gid"]: row["tenant_gid"] for row in await rows(store, EndpointMinute)}
    assert found == {end.gid: end.tenant_gid for end in ends}


async def test_two_processes_count_the_same_endpoints_at_once_and_lose_nothing(
    store: Store, recorder: Recorder, other_database: Database
) -> None:
    ends = [await store.subscribed() for _ in range(4)]
    records = [record for end in ends for record in await attempts_to(store, end, 50, error="refused")]
    other = Recorder(other_database)
    await asyncio.gather(
        *(recorder.attempt(record, Transcript()) for record in records[::2]),
        *(other.attempt(record, Transcript()) for record in reversed(records[1::2])),
    )
    assert await totals(store, "retried") == (200,)
    assert sum(row["count"] for row in await rows(store, EndpointMinuteError)) == 200


async def test_an_attempt_to_an_endpoint_that_is_gone_altogether_is_recorded_and_not_counted(
    store: Store, recorder: Recorder
) -> None:
    (record,) = await attempts_to(store, await store.subscribed(), 1, endpoint_gid="ep_erased")
    await recorder.attempt(record, Transcript())
    assert (await store.count(Attempt), await store.count(EndpointMinute)) == (1, 0)
