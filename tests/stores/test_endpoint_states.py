"""The states of endpoints as a process keeps them for a second."""

import asyncio

import pytest

from everhook.circuit import states_store as endpoint_states
from everhook.circuit.machine import CircuitState, Hold
from everhook.circuit.states_store import EndpointStates
from everhook.storage.engine import Database
from tests.stores.factories import Store
from tests.stores.plans import executed


@pytest.fixture
def states(database: Database) -> EndpointStates:
    return EndpointStates(database)


async def test_a_state_is_cached_and_read_again_on_request(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_states, "FRESH_S", 60.0)
    states = EndpointStates(database)
    end = await store.endpoint()
    first = await states.get(end.gid)
    assert first is not None and first.sends
    await store.circuit(end, hold=Hold.PAUSED)
    assert await states.get(end.gid) is first
    fresh = await states.get(end.gid, fresh=True)
    assert fresh is not None and fresh.hold is Hold.PAUSED
    assert await states.get(end.gid) is fresh


async def test_an_outdated_state_is_read_again(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_states, "FRESH_S", 0.0)
    states = EndpointStates(database)
    end = await store.endpoint()
    await states.get(end.gid)
    await store.circuit(end, state=CircuitState.OPEN, failures=5)
    again = await states.get(end.gid)
    assert again is not None and (again.state, again.failures) == (CircuitState.OPEN, 5)


async def test_there_is_no_state_of_an_endpoint_that_does_not_exist(states: EndpointStates) -> None:
    assert await states.get("ep_none") is None


@pytest.mark.both_databases
async def test_many_concurrent_readers_share_few_queries(
    store: Store, states: EndpointStates, database: Database
) -> None:
    ends = [await store.endpoint() for _ in range(3)]
    await store.circuit(ends[1], hold=Hold.PAUSED)
    queries = executed(database)
    asked = [end.gid for _ in range(50) for end in ends]
    found = await asyncio.gather(*(states.get(gid) for gid in asked))
    assert [state is not None and state.sends for state in found] == [True, False, True] * 50
    assert len(queries) <= 2


async def test_the_cache_stays_bounded(store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_states, "MAX_CACHED", 2)
    states = EndpointStates(database)
    for _ in range(5):
        await states.get((await store.endpoint()).gid)
    assert len(states._cache) <= 2
