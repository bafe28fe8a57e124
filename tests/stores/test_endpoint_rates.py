"""Send times of endpoints with a rate limit, on both databases."""

import asyncio
import time
from itertools import pairwise

import pytest
from sqlalchemy import update
from sqlmodel import col

from everhook.delivery.send_times_store import HORIZON_S, SendTime, SendTimes, horizon, spacing
from everhook.storage.engine import Database
from everhook.storage.tables import Endpoint, EndpointRate
from tests.stores.factories import Store

pytestmark = [pytest.mark.both_databases, pytest.mark.alone]

CLOSE_S = 0.02
"""How exactly a process knows the database's clock, on one machine."""


@pytest.fixture
async def endpoint(store: Store) -> Endpoint:
    return await store.endpoint()


async def reserve(times: SendTimes, gid: str, limit: float, count: int) -> list[SendTime]:
    return await asyncio.gather(*(times.reserve(gid, limit) for _ in range(count)))


def reserved(*found: SendTime) -> list[float]:
    return sorted(one.at for one in found if one.reserved)


async def test_times_are_spaced_by_the_limit_over_all_processes(
    database: Database, other_database: Database, endpoint: Endpoint
) -> None:
    one, other = SendTimes(database), SendTimes(other_database)
    found = await asyncio.gather(
        *(times.reserve(endpoint.gid, 20) for _ in range(3) for times in (one, other)),
    )
    times = reserved(*found)
    assert len(times) >= 4
    assert min(later - earlier for earlier, later in pairwise(times)) >= spacing(20) - CLOSE_S


@pytest.mark.parametrize("limit", [0.2, 1, 2, 5, 50, 1000])
async def test_a_send_time_beyond_the_horizon_is_not_reserved(
    database: Database, endpoint: Endpoint, limit: float
) -> None:
    times = SendTimes(database)
    began = time.monotonic()
    found = await reserve(times, endpoint.gid, limit, 120)
    far = [one for one in found if not one.reserved]
    assert far and all(one.at > began for one in far)
    assert reserved(*found)[-1] < time.monotonic() + 2 * horizon(limit) + CLOSE_S
    assert len(reserved(*found)) <= 2 * (horizon(limit) / spacing(limit) + 1) + (time.monotonic() - began) * limit


async def test_a_send_time_that_was_too_far_ahead_can_be_reserved_later(database: Database, endpoint: Endpoint) -> None:
    times = SendTimes(database)
    await times.reserve(endpoint.gid, 1)
    refused = await times.reserve(endpoint.gid, 1)
    assert not refused.reserved
    await asyncio.sleep(refused.at - time.monotonic() - HORIZON_S + CLOSE_S)
    found = await times.reserve(endpoint.gid, 1)
    assert found.reserved
    assert found.at == pytest.approx(refused.at, abs=CLOSE_S)


@pytest.mark.parametrize("limit", [20.0, 0.5])
async def test_another_limit_counts_for_the_next_reservation(
    database: Database, endpoint: Endpoint, limit: float
) -> None:
    """Raised, it does not wait for a time of the old limit; lowered, it is spaced from the last request."""
    times = SendTimes(database)
    before = await times.reserve(endpoint.gid, 1)
    after = await times.reserve(endpoint.gid, limit)
    assert after.at - before.at == pytest.approx(spacing(limit), abs=CLOSE_S)
    assert after.reserved == (limit > 1)


async def test_a_clock_that_is_set_back_does_not_hold_up_the_endpoint(database: Database, endpoint: Endpoint) -> None:
    times = SendTimes(database)
    await times.reserve(endpoint.gid, 1)
    async with database.writing() as session:
        await session.execute(
            update(EndpointRate)
            .where(col(EndpointRate.endpoint_gid) == endpoint.gid)
            .values(last_at=EndpointRate.last_at + 3600)
        )
    found = await times.reserve(endpoint.gid, 1)
    assert found.reserved
    assert found.at == pytest.approx(time.monotonic(), abs=0.1)
    assert not (await times.reserve(endpoint.gid, 1)).reserved


async def test_each_endpoint_has_its_own_times(store: Store, database: Database, endpoint: Endpoint) -> None:
    other = await store.endpoint()
    times = SendTimes(database)
    found = await asyncio.gather(*(times.reserve(gid, 1) for gid in (endpoint.gid, other.gid) for _ in range(3)))
    assert [one.reserved for one in found] == [True, False, False, True, False, False]
